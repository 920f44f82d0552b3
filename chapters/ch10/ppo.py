"""Chapter 10, the formulas of PPO as pure functions, in the order in which training uses them.

In reinforcement learning a language model is a *policy*: it acts by choosing tokens. Its response earns a *reward* from the
reward model. KL from the *reference*, a frozen copy of the SFT model, measures how far the policy has moved. The *value model*
predicts the reward still to come. An action's *advantage* says how much better it went than the value model predicted. PPO
makes actions with a positive advantage likelier, and the clip limits how much likelier one batch of rollouts can make them.

All arrays lie on the grid of ch10/rollout: a row is a prompt with its response, a column the choice of one token, and `mask` is
True where the policy chose a token. T counts the columns. Losses and their inputs are Tensors; all other arrays are NumPy's.
Steps 1 and 2, sampling and log-probabilities, are in ch10/rollout; ch10/rlhf puts the steps together.

Sources: Schulman et al. 2017, PPO (arXiv:1707.06347); Schulman et al. 2016, GAE (arXiv:1506.02438); Ziegler et al. 2019
(arXiv:1909.08593), section 2; Ouyang et al. 2022 (arXiv:2203.02155), equation 2 and appendix C. Huang et al. 2024, "The N+
Implementation Details of RLHF with PPO" (arXiv:2403.17031), has the details that the papers leave out.
"""

import numpy as np

import minigrad as mg
import minigrad.nn.functional as F

# ── step 3: rewards ──────────────────────────────────────────────────────────────────────────────────────────────────


def final_rewards(scores: np.ndarray, ended: np.ndarray, missing_end: float) -> np.ndarray:
    """The score of each response, or `missing_end` if the length limit cut the response off.  (B,) -> (B,)."""
    return np.where(ended, scores, missing_end)  # (B,)


def token_rewards(
    final: np.ndarray,
    log_probs: np.ndarray,
    reference_log_probs: np.ndarray,
    mask: np.ndarray,
    last: np.ndarray,
    kl_coefficient: float,
) -> np.ndarray:
    """Every token pays the KL penalty −β (log π(a_t) − log π_ref(a_t)); the last one also earns the final reward.

    final: (B,).  last: (B,) columns of the last tokens.  All others and the result: (B, T), 0 where the mask is False.
    """
    rewards = -kl_coefficient * (log_probs - reference_log_probs) * mask  # (B, T)
    rewards[np.arange(len(final)), last] += final
    return rewards


# ── steps 4 and 5: advantages ────────────────────────────────────────────────────────────────────────────────────────


def gae(
    rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, gamma: float = 1.0, lam: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimation: (advantages, returns), both (B, T), 0 where the mask is False.

        δ_t = r_t + γ V_{t+1} − V_t        A_t = δ_t + γ λ A_{t+1}        return_t = A_t + V_t

    V and A are 0 after the last token. With λ = 1 the advantage is the sum of all rewards to come, less the prediction V_t.
    With λ = 0 it is δ_t, which trusts the value model one step ahead.

    >>> rewards, values = np.array([[0.0, 0.0, 1.0]]), np.array([[0.5, 0.5, 0.75]])
    >>> gae(rewards, values, np.array([[True, True, True]]), lam=1.0)[0]
    array([[0.5 , 0.5 , 0.25]])

    Source: Schulman et al. 2016, equations 11 to 16.
    """
    advantages = np.zeros_like(values)  # (B, T)
    next_advantage, next_value = np.zeros(len(values)), np.zeros(len(values))  # (B,) each, of column t + 1
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]  # (B,)
        next_advantage = (delta + gamma * lam * next_advantage) * mask[:, t]  # (B,)
        next_value = values[:, t] * mask[:, t]  # (B,)
        advantages[:, t] = next_advantage
    return advantages, (advantages + values) * mask


def whiten(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Shift and scale to mean 0 and variance 1 under the mask; 0 elsewhere.  (B, T) -> (B, T)."""
    chosen = values[mask]
    return (values - chosen.mean()) / np.sqrt(chosen.var() + 1e-8) * mask


# ── steps 6 to 8: losses ─────────────────────────────────────────────────────────────────────────────────────────────


def masked_mean(values: mg.Tensor, mask: np.ndarray) -> mg.Tensor:
    """The mean over the entries under the mask.  (B, T) -> scalar."""
    weights = (mask / max(mask.sum(), 1)).astype(values.dtype)  # (B, T)
    return (values * mg.as_tensor(weights)).sum()


def policy_loss(
    log_probs: mg.Tensor, old_log_probs: mg.Tensor, advantages: mg.Tensor, mask: np.ndarray, clip: float = 0.2
) -> mg.Tensor:
    """−E[min(ρ A, clip(ρ, 1 − ε, 1 + ε) A)] with the ratio ρ = π(a) / π_old(a).  Four times (B, T) -> scalar.

    π_old is the policy at the time of sampling. Once a token with a positive advantage has become likelier by a factor
    1 + ε, its gradient is 0; the same holds for a negative advantage and 1 − ε. So one batch of rollouts serves several
    steps. Only log_probs has a gradient.  Source: Schulman et al. 2017, equation 7.
    """
    ratio = mg.exp(log_probs - old_log_probs)  # (B, T)
    unclipped = -advantages * ratio  # (B, T)
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)  # (B, T)
    return masked_mean(mg.maximum(unclipped, clipped), mask)


def value_loss(values: mg.Tensor, old_values: mg.Tensor, returns: mg.Tensor, mask: np.ndarray, clip: float = 0.2) -> mg.Tensor:
    """½ E[max((V − R)², (clip(V, V_old ± ε) − R)²)].  Four times (B, T) -> scalar; only values has a gradient.

    Source: Huang et al. 2024, section 4: the original code of Ziegler et al. clips the value loss in this way.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)  # (B, T)
    return 0.5 * masked_mean(mg.maximum(mg.square(values - returns), mg.square(near - returns)), mask)


def entropy(logits: mg.Tensor) -> mg.Tensor:
    """Mean entropy in nats of the distributions that the tokens were sampled from.  (N, V) -> scalar.

    Entropy falls as the policy becomes certain. At 0 all responses to a prompt are equal, and nothing is left to learn.
    """
    log_p = F.log_softmax(logits, dim=-1)  # (N, V)
    return -(mg.exp(log_p) * log_p).sum(-1).mean()


# ── step 9: the KL coefficient ───────────────────────────────────────────────────────────────────────────────────────


def adapted_kl_coefficient(kl_coefficient: float, kl: float, target: float, responses: int, horizon: float) -> float:
    """The next iteration's KL coefficient: higher if KL was above its target, lower if below.

    β ← β (1 + clip(KL / target − 1, ±0.2) · responses / horizon).  Source: Ziegler et al. 2019, section 2.2.
    A horizon shorter than the batch counts as one batch, so β stays positive.
    """
    return kl_coefficient * (1 + float(np.clip(kl / target - 1, -0.2, 0.2)) * responses / max(horizon, responses))


# ── step 10: diagnostics ─────────────────────────────────────────────────────────────────────────────────────────────


def ratio_statistics(log_probs: np.ndarray, old_log_probs: np.ndarray, mask: np.ndarray, clip: float = 0.2) -> dict[str, float]:
    """Mean ratio, share of tokens with a clipped ratio, and KL from the policy at sampling to the present policy.

    approx_kl is the mean of (ρ − 1) − log ρ, which is never negative (Schulman, "Approximating KL Divergence",
    joschu.net/blog/kl-approx.html).
    """
    log_ratio = (log_probs - old_log_probs)[mask].astype(np.float64)  # (N,)
    ratio = np.exp(log_ratio)  # (N,)
    return {
        "ratio": float(ratio.mean()),
        "clip_fraction": float((np.abs(ratio - 1) > clip).mean()),
        "approx_kl": float((ratio - 1 - log_ratio).mean()),
    }


def explained_variance(values: np.ndarray, returns: np.ndarray, mask: np.ndarray) -> float:
    """1 − Var(R − V) / Var(R) under the mask; 0 if the returns do not vary.

    A perfect value model has 1, a constant prediction 0, and a value model worse than a constant a negative number.
    """
    spread = returns[mask].var()
    return float(1 - (returns - values)[mask].var() / spread) if spread > 0 else 0.0
