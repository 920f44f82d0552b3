"""Chapter 10, RLHF: the policy samples responses, the reward model scores them, PPO makes the better ones likelier.

    python -m chapters.ch10.rlhf                        # from the main job's models, into runs/rlhf
    python -m chapters.ch10.rlhf --reward runs/reward   # with the reward model of ch10/reward

This is the second bend. `optimise_plainly` is the whole method in one loop; `optimise` with a `PPO` learner is the version
that is used. Both go through these steps, whose formulas ch10/ppo explains:

     1  The policy answers a batch of prompts; the log-probability of each chosen token is recorded.
     2  The reference, a frozen copy of the SFT model, gives its log-probabilities of the same tokens.
     3  Each token pays the KL penalty; the last one, the end-of-text token, also earns the reward model's score.
     4  The value model predicts the reward still to come at each token; GAE turns rewards and predictions into advantages.
     5  The advantages are whitened.
  6–8   The clipped policy loss, the value loss and the entropy bonus; several optimizer steps on the same rollouts.
     9  The KL coefficient adapts.
    10  The diagnostics go into metrics.jsonl and figures/watch.png.

When you run it, watch the reward and the judge's score against KL. A reward that rises while the judge's score falls means that
the policy exploits the reward model's errors. The first ratio of every iteration must be 1.

Sources: section 10.4; Ouyang et al. 2022 (arXiv:2203.02155); ch10/ppo names the sources of the formulas.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

import minigrad as mg
import minigrad.nn as nn
from chapters.ch06_gpt import GPT, load_model, save_model
from chapters.ch07_train import TrainConfig, as_floats, deferred_interrupt, make_optimizer, next_token_loss, to_tensors
from chapters.ch10 import ppo
from chapters.ch10.assess import assess, assessment_text, pooled_assessment_text, sample_responses
from chapters.ch10.demonstrations import pretraining_batches
from chapters.ch10.preference_figures import draw_path, draw_watch
from chapters.ch10.reward import ScalarModel, load_scalar, reward_scores
from chapters.ch10.rollout import Rollouts, chosen_log_probs, log_probs_of, roll_out, sequence_kl
from chapters.support.batches import Batches
from chapters.support.checkpoint import LoopCheckpoint
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.run_folder import Run
from chapters.world import Instruction, World
from chapters.world.judge import Judge, Scorer, score_of
from chapters.world.requests import mixed_tasks

Score = Callable[[Sequence[Instruction], Rollouts], np.ndarray]  # (tasks, their rollouts) -> (B,) rewards of whole responses


class Learner(Protocol):
    """A method that learns from rollouts.  For checkpoints it may also have `trained` and `numbers`, as PPO does."""

    def learn(
        self, rollouts: Rollouts, final: np.ndarray, reference_log_probs: np.ndarray, kl: float, lr: float
    ) -> dict[str, float]:
        """Train the policy on one batch of rollouts and return the diagnostics for metrics.jsonl.

        final: (B,) rewards of whole responses.  reference_log_probs: (B, T − 1).  kl: the batch's mean KL in nats per response.
        """


def old_log_probs(rollouts: Rollouts) -> np.ndarray:
    """The policy's log-probabilities at the time of sampling, (B, T − 1)."""
    if rollouts.log_probs is None:
        raise ValueError("learn: expected rollouts with log-probabilities, got none; call roll_out with record=True")
    return rollouts.log_probs


def action_columns(rollouts: Rollouts, rows: Any = slice(None)) -> mg.Tensor:
    """The inputs at which the policy chooses a next token: all columns but the last, (b, T − 1)."""
    return mg.as_tensor(np.ascontiguousarray(rollouts.inputs[rows, :-1]))


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
        mask, old, inputs = rollouts.mask, old_log_probs(rollouts), action_columns(rollouts)  # (B, T − 1) each
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


# ── the loop that is used ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class LoopConfig:
    """Settings of every method that learns from its own rollouts."""

    iterations: int = 30  # batches of rollouts
    prompts: int = 64  # rollouts per batch
    max_new_tokens: int = 48  # longest response in tokens
    lr: float = 1e-4  # peak learning rate of the policy; falls along a cosine to a tenth
    warmup: int = 3  # iterations in which the learning rate rises linearly
    grad_clip: float = 1.0  # largest gradient norm (0 = no limit)
    kl_coefficient: float = 0.2  # β: price of one nat of divergence from the SFT model
    kl_limit: float = 100.0  # KL in nats per response at which training stops as failed
    missing_end: float = -4.0  # reward of a response that the length limit cut off
    seed: int = 0  # random seed of prompts and sampling
    checkpoint_every: int = 10  # iterations between two checkpoints
    resume: bool = False  # whether to go on from the run folder's checkpoint

    def __post_init__(self) -> None:
        at_least_one(self, "iterations", "prompts", "max_new_tokens", "checkpoint_every")
        if self.kl_coefficient < 0 or not self.kl_limit > 0:
            raise ValueError(
                f"{type(self).__name__}: expected kl_coefficient >= 0 and kl_limit > 0, "
                f"got {self.kl_coefficient} and {self.kl_limit}"
            )


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
    kl_horizon: float = 2000.0  # responses in which the KL coefficient can about double (0 = constant coefficient)
    ptx_coefficient: float = 0.5  # weight of the pretraining loss (PPO-ptx), which keeps names and facts from being forgotten


def optimise(
    policy: GPT,
    reference: GPT,
    tokenizer: Any,
    score: Score,
    tasks: Sequence[Instruction],
    config: LoopConfig,
    run: Run,
    learner: Learner,
    judge: Scorer | None = None,
    repeat: int = 1,
    observe: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Train the policy in place on its own rollouts; metrics, figures and model go into `run`.

    Args:
        reference: the frozen SFT model.
        judge: its scores are logged beside the reward; the policy never learns from them.
        repeat: responses to each prompt.
        observe: called with the iteration's number after its policy has passed the checks.

    Returns:
        One record for each iteration, and one for the final policy.

    Raises:
        FloatingPointError: if KL exceeds config.kl_limit, or a score, loss or gradient is not finite.
        KeyboardInterrupt: after Ctrl-C. In both cases policy and `run` hold the last good parameters.
    """
    generator = mg.Generator(config.seed)
    checkpoint = LoopCheckpoint(run, policy, learner, generator, config)  # restores everything if config.resume is set
    records = checkpoint.records
    policy.eval()  # without dropout, so that the first ratio is 1
    good = snapshot(policy)
    progress = tqdm(total=config.iterations, initial=checkpoint.iteration, unit="batch", disable=None)
    try:
        with deferred_interrupt() as pressed, progress as bar:
            for iteration in range(checkpoint.iteration, config.iterations + 1):
                batch = draw_tasks(tasks, config, iteration, repeat)
                rollouts = roll_out(policy, tokenizer, batch, config.max_new_tokens, generator)  # step 1
                reference_log_probs = log_probs_of(reference, rollouts)  # (B, T − 1)  step 2
                kl = float(sequence_kl(old_log_probs(rollouts), reference_log_probs, rollouts.mask).mean())
                if not kl <= config.kl_limit:
                    raise FloatingPointError(
                        f"KL from the SFT model reached {kl:.1f} nats per response, beyond kl_limit={config.kl_limit}"
                    )
                scores = finite(score(batch, rollouts), "scores")  # (B,)
                good = snapshot(policy)
                if observe is not None:
                    observe(iteration)
                record = {
                    "iteration": iteration,
                    "kl": kl,
                    "reward": float(scores.mean()),
                    "length": float(rollouts.lengths.mean()),
                    "ended": float(rollouts.ended.mean()),
                }
                if judge is not None:
                    record["judge"] = float(np.mean(judge_scorer(judge, tokenizer)(batch, rollouts)))
                if iteration < config.iterations:
                    final = ppo.final_rewards(scores, rollouts.ended, config.missing_end)  # (B,)
                    lr = learning_rate(config, iteration)
                    record |= learner.learn(rollouts, final, reference_log_probs, kl, lr)  # steps 3 to 9
                checkpoint.record(record)  # step 10
                bar.set_postfix_str(f"reward {record['reward']:.2f}, KL {kl:.1f}", refresh=False)
                bar.update(iteration < config.iterations)
                if pressed:
                    checkpoint.save()
                    raise KeyboardInterrupt(f"stopped after iteration {iteration} and saved in {run.folder}: resume goes on")
    except FloatingPointError as error:
        restore(policy, good)
        raise FloatingPointError(
            f"optimise: training stopped at iteration {len(records)}: {error}; the last good policy is in {run.folder}"
        ) from None
    finally:
        save_model(run, policy, tokenizer)
        checkpoint.close()
    draw_watch(run / "figures" / "watch.png", records, run.folder.name)
    if judge is not None:
        draw_path(run / "figures" / "path.png", records)
    return records


def draw_tasks(tasks: Sequence[Instruction], config: LoopConfig, iteration: int, repeat: int = 1) -> list[Instruction]:
    """The tasks of an iteration, each `repeat` times in a row; they depend on (seed, iteration) alone."""
    rng = np.random.default_rng([config.seed, iteration])
    chosen = rng.choice(len(tasks), max(config.prompts // repeat, 1), replace=len(tasks) < config.prompts)
    return [tasks[i] for i in chosen for _ in range(repeat)]


def learning_rate(config: LoopConfig, iteration: int) -> float:
    """The policy's learning rate in an iteration: chapter 7's schedule, down to a tenth."""
    return mg.optim.warmup_cosine(
        iteration, lr=config.lr, min_lr=config.lr / 10, warmup_steps=config.warmup, total_steps=config.iterations
    )


def finite(values: Any, name: str) -> np.ndarray:
    """The values as float64; raises FloatingPointError if one of them is NaN or infinite."""
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise FloatingPointError(f"expected finite {name}, got NaN or infinity")
    return values


def snapshot(model: nn.Module) -> list[np.ndarray]:
    """Copies of the model's parameters."""
    return [parameter.array.copy() for parameter in model.parameters()]


def restore(model: nn.Module, arrays: Sequence[np.ndarray]) -> None:
    """Put the parameters of a snapshot back into the model."""
    for parameter, array in zip(model.parameters(), arrays, strict=True):
        parameter.array[...] = array


def optimizer_step(
    optimizer: mg.optim.AdamW, parameters: Iterable[mg.Tensor], loss: mg.Tensor, lr: float, grad_clip: float
) -> None:
    """One backward pass and one optimizer step; raises FloatingPointError if loss or gradients are not finite."""
    loss.backward()
    loss_value, norm = as_floats(loss, mg.optim.clip_grad_norm_(parameters, grad_clip or math.inf))
    finite(loss_value, "loss")
    finite(norm, "gradients")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()


# ── PPO ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Minibatch(NamedTuple):
    """Some rows of a batch of rollouts, (b, T − 1) each; see ch10/ppo."""

    inputs: mg.Tensor
    targets: np.ndarray
    mask: np.ndarray
    old_log_probs: np.ndarray
    advantages: np.ndarray
    old_values: np.ndarray
    returns: np.ndarray


class PPO:
    """Steps 3 to 9: `optimise_plainly` with several optimizer steps per batch, an adaptive KL coefficient and PPO-ptx.

    value_model: usually a copy of the reward model.  pretraining: next-token batches, if config.ptx_coefficient is not 0.
    """

    def __init__(self, policy: GPT, value_model: ScalarModel, config: PPOConfig, pretraining: Batches | None = None):
        self.policy, self.value_model, self.config, self.pretraining = policy, value_model, config, pretraining
        if config.ptx_coefficient and pretraining is None:
            raise ValueError(f"PPO: expected pretraining batches for ptx_coefficient={config.ptx_coefficient}, got None")
        no_decay = TrainConfig(weight_decay=0.0, beta2=0.99)
        self.optimizers = [make_optimizer(model, no_decay) for model in (policy, value_model)]
        self.trained = list(zip((policy, value_model), self.optimizers, strict=True))  # for the checkpoint
        self.kl_coefficient, self.steps = config.kl_coefficient, 0

    @property
    def numbers(self) -> dict[str, Any]:
        """The rest of the learner's state, for the checkpoint."""
        return {"kl_coefficient": self.kl_coefficient, "steps": self.steps}

    @numbers.setter
    def numbers(self, numbers: dict[str, Any]) -> None:
        self.kl_coefficient, self.steps = numbers["kl_coefficient"], numbers["steps"]

    def learn(
        self, rollouts: Rollouts, final: np.ndarray, reference_log_probs: np.ndarray, kl: float, lr: float
    ) -> dict[str, float]:
        config, mask, old, beta = self.config, rollouts.mask, old_log_probs(rollouts), self.kl_coefficient
        rewards = ppo.token_rewards(final, old, reference_log_probs, mask, rollouts.last, beta)  # (B, T − 1)  step 3
        with mg.no_grad():
            values = self.value_model(action_columns(rollouts)).numpy(force=True) * mask  # (B, T − 1)  step 4
        advantages, returns = ppo.gae(rewards, values, mask, config.gamma, config.lam)  # (B, T − 1) each
        record = {"explained_variance": ppo.explained_variance(values, returns, mask)}
        advantages = ppo.whiten(advantages, mask)  # (B, T − 1)  step 5

        diagnostics = []  # of each optimizer step
        for rows in self.minibatches(len(final)):
            arrays = [a[rows].astype(np.float32) for a in (old, advantages, values, returns)]  # (b, T − 1) each
            batch = Minibatch(action_columns(rollouts, rows), rollouts.targets[rows], mask[rows], *arrays)
            diagnostics.append(self.step(batch, lr))
        record |= {name: float(np.mean([step[name] for step in diagnostics])) for name in diagnostics[0]}
        record |= {"first_ratio": diagnostics[0]["ratio"], "kl_coefficient": beta}
        if config.kl_horizon:
            horizon = config.kl_horizon
            self.kl_coefficient = ppo.adapted_kl_coefficient(beta, kl, config.kl_target, len(final), horizon)  # step 9
        return record

    def step(self, batch: Minibatch, lr: float) -> dict[str, float]:
        """One optimizer step of the policy and one of the value model; returns diagnostics."""
        config, mask = self.config, batch.mask
        old, advantages, old_values, returns = (mg.as_tensor(array) for array in batch[3:])  # (b, T − 1) each
        logits = self.policy(batch.inputs)  # (b, T − 1, V)
        log_probs = chosen_log_probs(logits, mg.as_tensor(batch.targets))  # (b, T − 1)
        loss = policy_loss = ppo.policy_loss(log_probs, old, advantages, mask, config.clip)  # step 6
        if config.entropy_coefficient:
            entropy = ppo.entropy(logits, mask)  # step 8
            loss = loss - config.entropy_coefficient * entropy
        else:
            with mg.no_grad():  # a diagnostic only
                entropy = ppo.entropy(logits, mask)
        if config.ptx_coefficient and self.pretraining is not None:
            pages = to_tensors(self.pretraining.batch(self.steps), self.policy)
            loss = loss + config.ptx_coefficient * next_token_loss(self.policy, *pages)
        optimizer_step(self.optimizers[0], self.policy.parameters(), loss, lr, config.grad_clip)

        values = self.value_model(batch.inputs)  # (b, T − 1)
        value_loss = ppo.value_loss(values, old_values, returns, mask, config.value_clip)  # step 7
        value_lr = config.value_lr * lr / config.lr  # on the policy's schedule
        optimizer_step(self.optimizers[1], self.value_model.parameters(), value_loss, value_lr, config.grad_clip)
        self.steps += 1
        losses = zip(("policy_loss", "value_loss", "entropy"), as_floats(policy_loss, value_loss, entropy), strict=True)
        return dict(losses) | ppo.ratio_statistics(log_probs.numpy(force=True), batch.old_log_probs, mask, config.clip)

    def minibatches(self, B: int) -> Iterator[np.ndarray]:
        """The row numbers of every step: each epoch visits all rows once, in a new order."""
        rng = np.random.default_rng([self.config.seed, self.steps])
        for _ in range(self.config.epochs):
            yield from np.array_split(rng.permutation(B), min(self.config.minibatches, B))


def ptx_batches(config: PPOConfig, world: World, tokenizer: Any, policy: GPT) -> Batches | None:
    """The pretraining batches for PPO-ptx; None if its coefficient is 0."""
    return pretraining_batches(world, tokenizer, policy.config.context, 8, config.seed) if config.ptx_coefficient else None


def reward_scorer(reward_model: ScalarModel) -> Score:
    """Score with the reward model, read at each response's last token."""
    return lambda tasks, rollouts: reward_scores(reward_model, rollouts.rows)


def judge_scorer(judge: Scorer, tokenizer: Any) -> Score:
    """Score with the simulated judge itself, which no real project has."""
    return lambda tasks, rollouts: np.array(
        [score_of(judge, task, text) for task, text in zip(tasks, rollouts.texts(tokenizer), strict=True)]
    )


# ── training and assessment, shared by PPO, RLOO, DPO and best of n ──────────────────────────────────────────────────


class Harness:
    """The models, the simulated judge and the tasks with which a method trains and is compared with the SFT model.

    settings: the command's; its fields sft, world, seed and held_out are used.  noise: of the judge as a labeller.
    """

    def __init__(self, settings: Any, reward_model: ScalarModel | None = None, noise: float = 0.5):
        self.settings, self.reward_model = settings, reward_model
        self.reference, tokenizer = load_model(settings.sft)
        self.tokenizer: Any = tokenizer
        self.judge = Judge(World(settings.world), noise)
        self.tests = mixed_tasks(self.judge.world, "test", settings.held_out, settings.seed + 1)
        self.before: Rollouts | None = None  # the SFT model's responses to the held-out tasks

    def policy(self) -> GPT:
        """A new copy of the SFT model."""
        return load_model(self.settings.sft)[0]

    def tasks(self, n: int) -> list[Instruction]:
        """n tasks to train on."""
        return mixed_tasks(self.judge.world, "train", n, self.settings.seed)

    def optimise(self, policy: GPT, config: LoopConfig, run: Run, learner: Learner, **options: Any) -> list[dict[str, Any]]:
        """Train the policy with `optimise` against the reward model."""
        assert self.reward_model is not None, "Harness.optimise needs a reward model"
        score, tasks = reward_scorer(self.reward_model), self.tasks(self.settings.tasks)
        return optimise(policy, self.reference, self.tokenizer, score, tasks, config, run, learner, self.judge, **options)

    def assess(self, policy: GPT) -> dict[str, Any]:
        """Compare the policy with the SFT model on the held-out tasks; see ch10/assess."""
        seed = self.settings.seed
        if self.before is None:
            self.before = sample_responses(self.reference, self.tokenizer, self.tests, seed)
        after = sample_responses(policy, self.tokenizer, self.tests, seed)
        models = self.reference, policy, self.reward_model
        return assess(self.judge, self.tests, after, self.before, self.tokenizer, *models)


def train_and_assess(harness: Harness, run: Run, name: str, train: Callable[[GPT], Any]) -> dict[str, Any]:
    """Train a copy of the SFT model in place, compare it with the SFT model, and write scores.json."""
    policy = harness.policy()
    train(policy)
    scores = harness.assess(policy)
    write_scores(run, scores)
    print(assessment_text(scores, name))
    return scores


def write_scores(run: Run, scores: Any) -> None:
    """Write scores.json into the run folder."""
    (run / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(OnDevice):
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
    return train_and_assess(harness, run, "PPO", train)


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
