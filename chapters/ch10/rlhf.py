"""Chapter 10, RLHF: the policy samples responses, the reward model scores them, PPO makes the better ones likelier.

    python -m chapters.ch10.rlhf                        # from the main job's models, into runs/rlhf
    python -m chapters.ch10.rlhf --reward runs/reward   # with the reward model of ch10/reward

This is the second bend. `optimise_plainly` is the whole method in one loop. The version that is used is `PPO`, a learner for
ch10/harness's `optimise`. These are its steps, whose formulas ch10/ppo explains. The plain loop leaves out the entropy bonus
and steps 9 and 10.

     1  The policy answers a batch of prompts; the log-probability of each chosen token is recorded.
     2  The reference, a frozen copy of the SFT model, gives its log-probabilities of the same tokens.
     3  Each token pays the KL penalty; the last one, the end-of-text token, also earns the reward model's score.
     4  The value model predicts the reward still to come at each token; GAE turns rewards and predictions into advantages.
     5  The advantages are whitened.
  6–8   The losses are the clipped policy loss, the value loss and the entropy bonus. `PPO` takes several optimizer steps on
        the same rollouts.
     9  The KL coefficient adapts.
    10  The diagnostics go into metrics.jsonl and figures/watch.svg.

When you run it, watch the reward and the judge's score against KL. A reward that rises while the judge's score falls means that
the policy exploits the reward model's errors. The first ratio of every iteration must be 1.

Sources: section 10.4; Ouyang et al. 2022 (arXiv:2203.02155); ch10/ppo names the sources of the formulas.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from chapters.ch06_gpt import GPT
from chapters.ch07_train import as_floats, next_token_loss, to_tensors
from chapters.ch10 import ppo
from chapters.ch10.assess import pooled_assessment_text
from chapters.ch10.demonstrations import pretraining_batches
from chapters.ch10.harness import Harness, LoopConfig, Parts, Score, optimizer_step, rl_optimizer
from chapters.ch10.reward import ScalarModel, load_scalar
from chapters.ch10.rollout import Rollouts, chosen_log_probs, log_probs_of, roll_out, score_targets
from chapters.support.batches import Batches
from chapters.support.command import InShards, above, at_least, at_least_one, command
from chapters.support.run_folder import Run
from chapters.world import Instruction, World
from minigrad import distributed

# ── the plainest loop ────────────────────────────────────────────────────────────────────────────────────────────────


def optimise_plainly(
    policy: GPT,
    reference: GPT,
    value_model: ScalarModel,
    tokenizer: Any,
    score: Score,
    tasks: Sequence[Instruction],
    iterations: int,
    lr: float = 1e-4,
    kl_coefficient: float = 0.2,
    max_new_tokens: int = 48,
) -> list[float]:
    """PPO with one optimizer step per batch of rollouts; returns the mean score of each batch."""
    generator, mean_scores = mg.Generator(0), []
    optimizers = [mg.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0) for model in (policy, value_model)]
    for _ in range(iterations):
        rollouts = roll_out(policy, tokenizer, tasks, max_new_tokens, generator)
        reference_log_probs = log_probs_of(reference, rollouts)  # (B, T − 1)
        scores = score(tasks, rollouts)  # (B,)
        mask, old, inputs = rollouts.mask, rollouts.old_log_probs, rollouts.action_inputs()  # (B, T − 1) each
        rewards = ppo.token_rewards(scores, old, reference_log_probs, mask, rollouts.last, kl_coefficient)  # (B, T − 1)

        values = value_model(inputs)  # (B, T − 1)
        predictions = values.numpy(force=True) * mask  # (B, T − 1)
        advantages, returns = ppo.gae(rewards, predictions, mask)  # (B, T − 1) each
        arrays = old, ppo.whiten(advantages, mask), predictions, returns
        old_t, advantages_t, predictions_t, returns_t = (mg.as_tensor(array.astype(np.float32)) for array in arrays)

        log_probs = chosen_log_probs(policy(inputs), mg.as_tensor(rollouts.targets))  # (B, T − 1)
        policy_loss = ppo.policy_loss(log_probs, old_t, advantages_t, mask)
        (policy_loss + ppo.value_loss(values, predictions_t, returns_t, mask)).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        mean_scores.append(float(scores.mean()))
    return mean_scores


# ── the version that is used ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class PPOConfig(LoopConfig):
    """Settings of PPO."""

    epochs: int = 2  # passes over each batch of rollouts
    minibatches: int = 2  # optimizer steps per pass
    value_lr: float = 3e-4  # peak learning rate of the value model
    clip: float = 0.2  # ε of the policy's ratio
    value_clip: float = 0.4  # ε of the values
    gamma: float = 1.0  # discount of later rewards (1 = none)
    lam: float = 0.95  # λ of GAE
    entropy_coefficient: float = 0.0  # weight of the entropy bonus
    kl_target: float = 3.0  # KL in nats per response at which the KL coefficient stays constant
    kl_horizon: float = 2000.0  # responses in which the KL coefficient can change by a fifth (0 = constant coefficient)
    ptx_coefficient: float = 0.5  # weight of the pretraining loss (PPO-ptx), which keeps names and facts from being forgotten

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "epochs", "minibatches")
        above(self, 0, "value_lr", "clip", "value_clip", "kl_target")
        at_least(self, 0, "entropy_coefficient", "kl_horizon", "ptx_coefficient")
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ValueError(f"gamma and lam must be between 0 and 1, got {self.gamma} and {self.lam}")


class PPO:
    """Steps 3 to 9: `optimise_plainly` with several optimizer steps per batch, an adaptive KL coefficient and PPO-ptx.

    value_model: usually a copy of the reward model.  pretraining: next-token batches, if config.ptx_coefficient is not 0.
    """

    def __init__(self, policy: GPT, value_model: ScalarModel, config: PPOConfig, pretraining: Batches | None = None):
        self.policy, self.value_model, self.config, self.pretraining = policy, value_model, config, pretraining
        if config.ptx_coefficient and pretraining is None:
            raise ValueError(f"PPO: expected pretraining batches for ptx_coefficient={config.ptx_coefficient}, got None")
        self.optimizers = [rl_optimizer(model) for model in (policy, value_model)]
        # The checkpoint stores both attributes.
        self.trained = list(zip((policy, value_model), self.optimizers, strict=True))
        self.numbers: dict[str, Any] = {"kl_coefficient": config.kl_coefficient, "steps": 0}

    def learn(
        self, rollouts: Rollouts, final: np.ndarray, reference_log_probs: np.ndarray, kl: float, lr: float
    ) -> dict[str, float]:
        config, mask, old, beta = self.config, rollouts.mask, rollouts.old_log_probs, self.numbers["kl_coefficient"]
        rewards = ppo.token_rewards(final, old, reference_log_probs, mask, rollouts.last, beta)  # (B, T − 1)  step 3
        values = self.predicted_values(rollouts) * mask  # (B, T − 1)  step 4
        advantages, returns = ppo.gae(rewards, values, mask, config.gamma, config.lam)  # (B, T − 1) each
        arrays = [array.astype(np.float32) for array in (old, ppo.whiten(advantages, mask), values, returns)]  # step 5

        steps = [self.step(rollouts, rows, arrays, lr) for rows in self.minibatches(len(final))]  # steps 6 to 8
        record = {"explained_variance": ppo.explained_variance(values, returns, mask)}
        record |= {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
        record |= {"first_ratio": steps[0]["ratio"], "kl_coefficient": beta}
        if config.kl_horizon:  # step 9
            adapted = ppo.adapted_kl_coefficient(beta, kl, config.kl_target, len(final), config.kl_horizon)
            self.numbers["kl_coefficient"] = adapted
        return record

    def predicted_values(self, rollouts: Rollouts) -> np.ndarray:
        """The value model's output at each token, without gradients: (B, T − 1). Ranks share the rollouts out."""

        def predict(rows: Sequence[int]) -> np.ndarray:
            return self.value_model(rollouts.action_inputs(rows)).numpy(force=True)

        with mg.no_grad():
            return np.concatenate(distributed.current().map_shards(predict, range(len(rollouts.mask))))

    def step(self, rollouts: Rollouts, rows: np.ndarray, arrays: Sequence[np.ndarray], lr: float) -> dict[str, float]:
        """One optimizer step of the policy and one of the value model on some rows of the rollouts; returns diagnostics.

        arrays: old log-probabilities, advantages, old values and returns, (B, T − 1) each.
        """
        config, batch = self.config, [rows]
        if config.ptx_coefficient and self.pretraining is not None:
            batch += self.pretraining.batch(self.numbers["steps"])  # inputs and targets

        def policy_parts(part: np.ndarray, *pages: np.ndarray) -> Parts:
            """The part of b rows, and of some pretraining pages, in the policy's mean loss and in the diagnostics."""
            mask, inputs = rollouts.mask[part], rollouts.action_inputs(part)  # (b, T − 1) each
            old, advantages, _, _ = (mg.as_tensor(array[part]) for array in arrays)  # (b, T − 1) each
            log_probs, logits = score_targets(self.policy, inputs, rollouts.targets[part])  # (b, T − 1), (N, V)
            loss = policy_loss = ppo.policy_loss(log_probs, old, advantages, mask, config.clip)  # step 6
            if config.entropy_coefficient:
                entropy = ppo.entropy(logits)  # step 8
                loss = loss - config.entropy_coefficient * entropy
            else:
                with mg.no_grad():  # a diagnostic only
                    entropy = ppo.entropy(logits)
            loss = rollouts.token_share(part, rows) * loss
            if pages:
                share_of_pages = len(pages[0]) / len(batch[1])
                page_loss = next_token_loss(self.policy, *to_tensors(pages, self.policy))
                loss = loss + config.ptx_coefficient * share_of_pages * page_loss
            diagnostics = dict(zip(("policy_loss", "entropy"), as_floats(policy_loss, entropy), strict=True))
            diagnostics |= ppo.ratio_statistics(log_probs.numpy(force=True), arrays[0][part], mask, config.clip)
            return loss, {name: rollouts.token_share(part, rows) * value for name, value in diagnostics.items()}

        def value_parts(part: np.ndarray) -> Parts:
            """The part of b rows in the value model's mean loss."""
            _, _, old_values, returns = (mg.as_tensor(array[part]) for array in arrays)  # (b, T − 1) each
            values = self.value_model(rollouts.action_inputs(part))  # (b, T − 1)
            loss = ppo.value_loss(values, old_values, returns, rollouts.mask[part], config.value_clip)  # step 7
            return rollouts.token_share(part, rows) * loss, {}

        policy_optimizer, value_optimizer = self.optimizers
        _, diagnostics = optimizer_step(self.policy, policy_optimizer, batch, policy_parts, lr, config.grad_clip)
        value_lr = config.value_lr * lr / config.lr  # on the policy's schedule
        value_loss, _ = optimizer_step(self.value_model, value_optimizer, [rows], value_parts, value_lr, config.grad_clip)
        self.numbers["steps"] += 1
        return {"policy_loss": diagnostics["policy_loss"], "value_loss": value_loss} | diagnostics

    def minibatches(self, B: int) -> Iterator[np.ndarray]:
        """The row numbers of every step: each epoch visits all rows once, in a new order."""
        rng = np.random.default_rng([self.config.seed, self.numbers["steps"]])
        for _ in range(self.config.epochs):
            yield from np.array_split(rng.permutation(B), min(self.config.minibatches, B))


def ptx_batches(config: PPOConfig, world: World, tokenizer: Any, policy: GPT) -> Batches | None:
    """The pretraining batches for PPO-ptx; None if its coefficient is 0."""
    return pretraining_batches(world, tokenizer, policy.config.context, 8, config.seed) if config.ptx_coefficient else None


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(InShards):
    """Fine-tune the SFT model with PPO against a reward model, and let the simulated judge compare the two."""

    sft: Path = Path("runs/main/assistant")  # run folder of the SFT model: initial policy and reference
    reward: Path = Path("runs/main/reward")  # run folder of the reward model
    run: Path = Path("runs/rlhf")  # folder for all results
    tasks: int = 4000  # training tasks to draw prompts from
    held_out: int = 320  # held-out tasks, about unseen entities, for the comparison
    training: PPOConfig = field(default_factory=PPOConfig)
    world: int = 0  # seed of the world
    seed: int = 0  # random seed
    seeds: int = 1  # policies to train, with consecutive seeds; several show how much is chance
    quick: bool = False  # fewer rollouts


QUICK = {"held_out": 64, "training": PPOConfig(iterations=5, prompts=16)}


def train_one(settings: Settings, run: Run) -> dict[str, Any]:
    """Train and assess one policy with PPO."""

    def train(policy: GPT) -> None:
        pages = ptx_batches(config, harness.judge.world, harness.tokenizer, policy)
        harness.optimise(policy, config, run, PPO(policy, load_scalar(settings.reward), config, pages))

    config, harness = replace(settings.training, seed=settings.seed), Harness(settings, load_scalar(settings.reward))
    run.describe(command=settings)
    return harness.train_and_assess(run, "PPO", train)


def main(settings: Settings) -> None:
    at_least_one(settings, "seeds", "tasks", "held_out")
    results = []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        folder = settings.run if settings.seeds == 1 else settings.run / f"seed_{seed}"
        results.append(train_one(replace(settings, seed=seed), Run(folder)))
    if len(results) > 1:
        print(f"\n{pooled_assessment_text(results, 'PPO')}")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
