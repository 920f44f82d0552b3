"""Chapter 10: the training loop of PPO, RLOO and GRPO, and the models, tasks and simulated judge that all methods share.

`optimise` trains a policy on its own rollouts. It samples, scores, logs and saves; a `Learner` such as ch10/rlhf's `PPO` or
ch10/rloo's `RLOO` turns each batch of rollouts into optimizer steps. `Harness` holds the models, tasks and simulated judge of a
command, so every method starts from the same SFT model and is measured on the same held-out tasks.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

import minigrad as mg
import minigrad.nn as nn
from chapters.ch06_gpt import GPT, load_model, save_model
from chapters.ch07_train import TrainConfig, deferred_interrupt, make_optimizer
from chapters.ch10.assess import assess, assessment_text, sample_responses
from chapters.ch10.ppo import final_rewards
from chapters.ch10.preference_figures import draw_path, draw_watch
from chapters.ch10.reward import ScalarModel, reward_scores
from chapters.ch10.rollout import Rollouts, log_probs_of, roll_out, sequence_kl
from chapters.support.checkpoint import LoopCheckpoint
from chapters.support.command import above, at_least, at_least_one, progress_bar
from chapters.support.ranks import compare_with_rank_0
from chapters.support.run_folder import Run, stopped
from chapters.support.shared_training import check_enough, checksum_of
from chapters.world import Instruction, World
from chapters.world.judge import Judge, Scorer, score_of
from chapters.world.requests import mixed_tasks
from minigrad import distributed
from minigrad.distributed.gradients import GradientExchange

Score = Callable[[Sequence[Instruction], Rollouts], np.ndarray]  # (tasks, their rollouts) -> (B,) rewards of whole responses
Record = dict[str, Any]  # one line of metrics.jsonl
Parts = tuple[mg.Tensor, dict[str, float]]  # a shard's part of a mean loss, and of each diagnostic


class Learner(Protocol):
    """A method that learns from rollouts.  For checkpoints it may also have `trained` and `numbers`, as PPO does."""

    def learn(
        self, rollouts: Rollouts, final: np.ndarray, reference_log_probs: np.ndarray, kl: float, lr: float
    ) -> dict[str, float]:
        """Train the policy on one batch of rollouts and return the diagnostics for metrics.jsonl.

        final: (B,) rewards of whole responses.  reference_log_probs: (B, T − 1).  kl: the batch's mean KL in nats per response.
        """


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
    resume: bool = False  # continue from the run folder's checkpoint

    def __post_init__(self) -> None:
        at_least_one(self, "iterations", "prompts", "max_new_tokens", "checkpoint_every")
        above(self, 0, "lr", "kl_limit")
        at_least(self, 0, "warmup", "grad_clip", "kl_coefficient")


@dataclass
class GroupConfig(LoopConfig):
    """Settings of the methods that compare the responses to a prompt with each other."""

    k: int = 4  # responses to each prompt

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 2 or self.prompts % self.k:
            name = type(self).__name__
            raise ValueError(f"{name}: expected k >= 2 that divides prompts={self.prompts}, got k={self.k}")


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
) -> list[Record]:
    """Train the policy in place on its own rollouts; metrics, figures and model go into `run`.

    The comments number the steps as ch10/rlhf does.

    Args:
        reference: the frozen SFT model.
        judge: its scores are logged beside the reward; the policy never learns from them.
        repeat: responses to each prompt.
        observe: called with each iteration's number once the policy has passed the checks.

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
    progress = progress_bar(config.iterations, checkpoint.iteration, "batch")
    try:
        with deferred_interrupt() as pressed, progress as bar:
            for iteration in range(checkpoint.iteration, config.iterations + 1):
                batch = draw_tasks(tasks, config, iteration, repeat)
                rollouts = roll_out(policy, tokenizer, batch, config.max_new_tokens, generator)  # step 1
                reference_log_probs = log_probs_of(reference, rollouts)  # (B, T − 1)  step 2
                rollouts.reference_log_probs = reference_log_probs
                kl = checked_kl(rollouts, reference_log_probs, config.kl_limit)
                scores = finite(score(batch, rollouts), "scores")  # (B,)
                good = snapshot(policy)
                if observe is not None:
                    observe(iteration)
                record: Record = {"iteration": iteration, "kl": kl, "reward": float(scores.mean())}
                record |= {"length": float(rollouts.lengths.mean()), "ended": float(rollouts.ended.mean())}
                if judge is not None:
                    record["judge"] = float(np.mean(judge_scorer(judge, tokenizer)(batch, rollouts)))
                if iteration < config.iterations:
                    final = final_rewards(scores, rollouts.ended, config.missing_end)  # (B,)
                    lr = learning_rate(config, iteration)
                    record |= learner.learn(rollouts, final, reference_log_probs, kl, lr)  # steps 3 to 9
                if distributed.current().group.size > 1:  # every rank must have taken the same steps
                    compare_with_rank_0({"policy": checksum_of(policy)})
                checkpoint.record(record)  # step 10
                bar.set_postfix_str(f"reward {record['reward']:.2f}, KL {kl:.1f}", refresh=False)
                bar.update(iteration < config.iterations)
                if distributed.current().true_on_any(bool(pressed)):
                    checkpoint.save()
                    raise KeyboardInterrupt(stopped(f"iteration {iteration}", run, config.resume))
    except FloatingPointError as error:
        restore(policy, good)
        raise FloatingPointError(
            f"optimise: training stopped at iteration {len(records)}: {error}; the last good policy is in {run.folder}"
        ) from None
    finally:
        save_model(run, policy, tokenizer, "instruction")
        checkpoint.close()
    draw_watch(run / "figures" / "watch.svg", records, run.folder.name)
    if judge is not None:
        draw_path(run / "figures" / "path.svg", records)
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


def checked_kl(rollouts: Rollouts, reference_log_probs: np.ndarray, limit: float) -> float:
    """Mean KL from the SFT model in nats per response; raises FloatingPointError above the limit."""
    kl = float(sequence_kl(rollouts.old_log_probs, reference_log_probs, rollouts.mask).mean())
    if not kl <= limit:
        raise FloatingPointError(f"KL from the SFT model reached {kl:.1f} nats per response, beyond kl_limit={limit}")
    return kl


def finite(values: Any, name: str) -> np.ndarray:
    """The values as float64; raises FloatingPointError if any of them is NaN or infinite."""
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
        parameter.changed()


# ── for learners ─────────────────────────────────────────────────────────────────────────────────────────────────────


def rl_optimizer(model: nn.Module) -> mg.optim.AdamW:
    """AdamW without weight decay, which would pull the policy away from the SFT model."""
    return make_optimizer(model, TrainConfig(weight_decay=0.0, beta2=0.99))


def optimizer_step(
    model: nn.Module,
    optimizer: mg.optim.AdamW,
    batch: Sequence[np.ndarray],
    parts_of: Callable[..., Parts],
    lr: float,
    grad_clip: float,
) -> tuple[float, dict[str, float]]:
    """One optimizer step. Ranks share the batch's shards out; each shard has a backward pass of its own.

    Args:
        batch: arrays, which are cut into shards along their first axis.
        parts_of: maps a shard's arrays to its parts of the batch's mean loss and diagnostics. The parts of all shards add up.

    Returns:
        The mean loss and the diagnostics of the whole batch.

    Raises:
        FloatingPointError: if loss or gradients are not finite.
        RankError: if an array has fewer rows than there are shards.
    """
    sharing = distributed.current()
    parameters = [p for p in model.parameters() if p.requires_grad]
    if sharing.shards == 1:
        loss, diagnostics = parts_of(*batch)
        loss.backward()
        parts = [(loss.item(), diagnostics)]
    else:
        parts = gradients_in_shards(parameters, batch, parts_of)
    norm = mg.optim.clip_grad_norm_(parameters, grad_clip or math.inf).item()
    mean_loss = sum(loss for loss, _ in parts)
    finite(mean_loss, "loss")
    finite(norm, "gradients")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    return mean_loss, {name: sum(part[name] for _, part in parts) for name in parts[0][1]}


def gradients_in_shards(
    parameters: Sequence[mg.Tensor], batch: Sequence[np.ndarray], parts_of: Callable[..., Parts]
) -> list[tuple[float, dict[str, float]]]:
    """Compute the gradients of all shards of a batch with the other ranks; returns each shard's loss and diagnostics."""
    sharing = distributed.current()
    check_enough(min(map(len, batch)), sharing.shards)
    shards = list(zip(*(np.array_split(array, sharing.shards) for array in batch)))
    computed = []
    with closing(GradientExchange(parameters, sharing, sharing.shards)) as exchange:
        for i, shard in enumerate(exchange.own_terms):
            with exchange.collect(i):
                loss, diagnostics = parts_of(*shards[shard])
                loss.backward()
            computed.append((loss.item(), diagnostics))
        return [part for parts in exchange.finish(computed) for part in parts]


def reward_scorer(reward_model: ScalarModel) -> Score:
    """Score with the reward model, read at each response's last token."""
    return lambda tasks, rollouts: reward_scores(reward_model, rollouts.rows)


def judge_scorer(judge: Scorer, tokenizer: Any) -> Score:
    """Score with the simulated judge itself, which no real project has."""
    return lambda tasks, rollouts: np.array(
        [score_of(judge, task, text) for task, text in zip(tasks, rollouts.texts(tokenizer), strict=True)]
    )


# ── for commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Harness:
    """The models, tasks and simulated judge with which a command trains policies and compares them with the SFT model.

    settings: the command's settings, with fields sft, world, seed and held_out.  noise: labeller noise of the judge.
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

    def optimise(self, policy: GPT, config: LoopConfig, run: Run, learner: Learner, **options: Any) -> list[Record]:
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

    def train_and_assess(self, run: Run, name: str, train: Callable[[GPT], Any]) -> dict[str, Any]:
        """Let `train` change a copy of the SFT model in place, compare the two, and write scores.json."""
        policy = self.policy()
        train(policy)
        scores = self.assess(policy)
        run.write_scores(scores)
        print(assessment_text(scores, name))
        return scores
