"""Chapter 10, PPO step by step: each step a pure function, to be read in the order of the numbers.

What this file teaches: reinforcement learning on language is a handful of short formulas on one grid. Arrays are
(B, T), a row a prompt and its response, a column the choice of one token; `mask` is True where the policy chose a token
(see ch10/rollout). Steps 1 and 2, rollouts and log-probabilities, are in ch10/rollout; the loop around all steps is in
rlhf. Arrays that are differentiated are Tensors, and all others are NumPy's.

Sources: Schulman et al. 2017, PPO (arXiv:1707.06347); Schulman et al. 2016, GAE (arXiv:1506.02438); Ziegler et al. 2019
(arXiv:1909.08593), section 2; Ouyang et al. 2022 (arXiv:2203.02155), equation 2 and appendix C; and for what papers
leave out, Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO" (arXiv:2403.17031).
"""

import numpy as np

import minigrad as mg
import minigrad.nn.functional as F

# ── step 3: what a token earns ───────────────────────────────────────────────────────────────────────────────────────


def final_rewards(scores, ended, missing_end):
    """(B,) scores of whole responses; a response that was cut off before its end earns `missing_end` instead."""
    return np.where(ended, scores, missing_end)  # (B,)


def token_rewards(final, log_probs, reference_log_probs, mask, last, kl_coefficient):
    """r_t = −β (log π(a_t) − log π_ref(a_t)), and at the response's last token, its end, the final reward as well.

    final: (B,); last: (B,) columns; the others (B, T) -> (B, T).  Nothing is rewarded where the mask is False.
    """
    rewards = -kl_coefficient * (log_probs - reference_log_probs) * mask  # (B, T)
    rewards[np.arange(len(final)), last] += final
    return rewards


# ── steps 4 and 5: how much better than expected ─────────────────────────────────────────────────────────────────────


def gae(rewards, values, mask, gamma=1.0, lam=0.95):
    """Generalised advantage estimation: (advantages, returns), both (B, T), 0 where the mask is False.

        δ_t = r_t + γ V_{t+1} − V_t        A_t = δ_t + γ λ A_{t+1}        return_t = A_t + V_t

    with V and A zero after the last token. λ = 1 is the plain difference of what came and what was expected; λ = 0
    trusts the value model one step ahead.  Schulman et al. 2016, equations 11 to 16.
    """
    advantages = np.zeros_like(values)  # (B, T)
    following, expected = np.zeros(len(values)), np.zeros(len(values))  # (B,) A and V one column further right
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * expected - values[:, t]  # (B,)
        following = (delta + gamma * lam * following) * mask[:, t]  # (B,)
        expected = values[:, t] * mask[:, t]  # (B,)
        advantages[:, t] = following
    return advantages, (advantages + values) * mask


def whiten(values, mask):
    """Mean 0 and variance 1 over the entries under the mask; 0 elsewhere.  (B, T) -> (B, T)."""
    chosen = values[mask]
    return (values - chosen.mean()) / np.sqrt(chosen.var() + 1e-8) * mask


# ── steps 6 to 8: the losses ─────────────────────────────────────────────────────────────────────────────────────────


def masked_mean(values, mask):
    """The mean over the entries under the mask: Tensor (B, T), bool array (B, T) -> scalar Tensor."""
    weights = (mask / max(mask.sum(), 1)).astype(values.dtype)  # (B, T)
    return (values * mg.as_tensor(weights)).sum()


def policy_loss(log_probs, old_log_probs, advantages, mask, clip=0.2):
    """−E[min(ρ A, clip(ρ, 1 − ε, 1 + ε) A)] with ρ = π(a) / π_old(a).

    log_probs, old_log_probs, advantages: Tensors (B, T); only the first has a gradient.  Once a token is likelier by ε
    than when it was drawn, a good one is pushed no further, and a bad one likewise: one batch of rollouts may be used
    for several steps.  Schulman et al. 2017, equation 7.
    """
    ratio = mg.exp(log_probs - old_log_probs)  # (B, T)
    plain = -advantages * ratio  # (B, T)
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)  # (B, T)
    return masked_mean(mg.maximum(plain, clipped), mask)


def value_loss(values, old_values, returns, mask, clip=0.2):
    """½ E[max((V − R)², (clip(V, V_old ± ε) − R)²)].  Tensors (B, T); only values has a gradient.

    Huang et al. 2024, section 4: the clipped form, as the original code of Ziegler et al. has it.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)  # (B, T)
    return 0.5 * masked_mean(mg.maximum(mg.square(values - returns), mg.square(near - returns)), mask)


def entropy(logits, mask):
    """Mean entropy, in nats, of the distributions from which tokens were chosen.  Tensor (B, T, V), (B, T) -> scalar.

    It falls as a policy makes up its mind; at 0 it says the same thing always, and has nothing left to learn from.
    """
    log_p = F.log_softmax(logits[np.nonzero(mask)], dim=-1)  # (N, V)
    return -(mg.exp(log_p) * log_p).sum(-1).mean()


# ── step 9: how far from the SFT model ───────────────────────────────────────────────────────────────────────────────


def adapted_kl_coefficient(kl_coefficient, kl, target, responses, horizon):
    """The KL coefficient for the next iteration: up where KL was above its target, down where below.

    β ← β (1 + clip(KL / target − 1, ±0.2) · responses / horizon).  Ziegler et al. 2019, section 2.2.
    """
    return kl_coefficient * (1 + float(np.clip(kl / target - 1, -0.2, 0.2)) * responses / horizon)


# ── step 10: what practitioners watch ────────────────────────────────────────────────────────────────────────────────


def watch(log_probs, old_log_probs, mask, clip=0.2):
    """{name: number} of one step of optimisation: mean ratio, share of tokens whose ratio is clipped, and approx_kl, KL
    between the policy now and when it drew, by the estimator (ρ − 1) − log ρ, which is never negative (Schulman,
    "Approximating KL Divergence", joschu.net/blog/kl-approx.html)."""
    log_ratio = (log_probs - old_log_probs)[mask].astype(np.float64)  # (N,)
    ratio = np.exp(log_ratio)  # (N,)
    return {
        "ratio": float(ratio.mean()),
        "clip_fraction": float((np.abs(ratio - 1) > clip).mean()),
        "approx_kl": float((ratio - 1 - log_ratio).mean()),
    }


def explained_variance(values, returns, mask):
    """1 − Var(R − V) / Var(R) under the mask: 1 for a value model that knows all, 0 for one that knows nothing; it can
    be negative.  0 where the returns do not vary."""
    spread = returns[mask].var()
    return float(1 - (returns - values)[mask].var() / spread) if spread > 0 else 0.0
