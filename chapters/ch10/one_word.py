"""Chapter 10, one word: PPO and GRPO learn within a minute, from a reward that anybody can check.

    python -m chapters.ch10.one_word      # into runs/one_word; look at figures/one_word.svg

A tiny model first learns to babble: it answers with eight words, each drawn from the same eight words. Then each "tea" in a
response earns one point. That is the whole reward. The number of "tea" rises from one word in eight to about one in two, and
there it stays, because the KL penalty pulls back. How far it rises can be computed beforehand. So the curves have a level to
reach, and a mistake in a sign, in the advantages or in the penalty would lead somewhere else.

In the babble the words of a response are independent, and so they are in the best policy. Let p be the share of "tea" in the
babble, q its share in the policy, and β the KL coefficient.

PPO takes β (log π − log π_ref) from the reward of each token, and so maximises the expected reward less β KL(π ‖ π_ref). The
maximum is known in closed form: π ∝ π_ref · exp(reward / β).

GRPO has its penalty in the loss. Its estimate, π_ref / π − log(π_ref / π) − 1, is on average KL(π ‖ π_ref). The gradient of the
estimate, however, is on average that of KL(π_ref ‖ π), the other direction (Tang and Munos 2025). So the same β leads GRPO to
another level. Here it has Dr. GRPO's corrections: without them, each group's standard deviation would scale the reward.

    "tea" in a response     predicted     seeds 0, 1, 2, mean of 1,000 responses each
    PPO                     4.11          3.95, 4.15, 3.99
    GRPO                    4.45          4.54, 4.45, 4.55

After 40 iterations both are within 4 % of their levels.

Sources: Ziegler et al. 2019 (arXiv:1909.08593), section 2, the best policy; Tang and Munos 2025, "On a few pitfalls in KL
divergence gradient estimation for RL" (arXiv:2506.09477).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_train import TrainConfig
from chapters.ch10.assess import bootstrap_interval
from chapters.ch10.grpo import GRPO, GRPOConfig
from chapters.ch10.harness import Learner, LoopConfig, optimise
from chapters.ch10.preference_figures import METHODS
from chapters.ch10.reward import ScalarModel
from chapters.ch10.rlhf import PPO, PPOConfig
from chapters.ch10.rollout import Rollouts, roll_out_many
from chapters.ch10.sft import fine_tune, learn_tokenizer
from chapters.support.command import OnDevice, above, at_least_one, command
from chapters.support.figures import new_figure, save_figure
from chapters.support.run_folder import Run
from chapters.world import Instruction

WORDS = "tea sun cat sea dog red sky yes".split()
WORD = "tea"
LENGTH = 8  # words in a response
GROUP = 8  # responses in a group, for GRPO

# ── how far each method should go ────────────────────────────────────────────────────────────────────────────────────


def ppo_share(p: float, kl_coefficient: float) -> float:
    """The share q of the word in the best policy: q / (1 − q) = p / (1 − p) · exp(1 / β).

    Each occurrence earns one point, which multiplies the word's odds by exp(1 / β).

    >>> round(ppo_share(1 / 8, 0.5), 3)
    0.514
    """
    return float(1 / (1 + (1 - p) / p * np.exp(-1 / kl_coefficient)))


def grpo_share(p: float, kl_coefficient: float, k: int) -> float:
    """The share q at which Dr. GRPO's gradient vanishes: (1 − 1 / k) q (1 − q) = β (q − p).

    With respect to the word's logit, the expected reward has the derivative q (1 − q), and KL(π_ref ‖ π) has q − p. A group's
    mean contains the response's own reward, which shrinks the advantage by a factor 1 − 1 / k.

    >>> round(grpo_share(1 / 8, 0.5, 8), 3)
    0.557
    """
    c = (1 - 1 / k) / kl_coefficient  # c q² + (1 − c) q − p = 0
    return float((c - 1 + np.sqrt((1 - c) ** 2 + 4 * c * p)) / (2 * c))


def predicted_counts(kl_coefficient: float) -> dict[str, float]:
    """{method: how often a response will say the word}.

    >>> {name: round(count, 2) for name, count in predicted_counts(0.5).items()}
    {'PPO': 4.11, 'GRPO': 4.45}
    """
    p = 1 / len(WORDS)
    return {"PPO": LENGTH * ppo_share(p, kl_coefficient), "GRPO": LENGTH * grpo_share(p, kl_coefficient, GROUP)}


# ── the babble and its reward ────────────────────────────────────────────────────────────────────────────────────────


def babble(n: int, seed: int) -> list[Instruction]:
    """n times the same instruction, with a response of LENGTH independent words."""
    chosen = np.random.default_rng(seed).choice(WORDS, (n, LENGTH))  # (n, LENGTH)
    return [Instruction("Say eight words.", "", " ".join(words), "babble", "") for words in chosen]


def count_word(texts: Sequence[str]) -> np.ndarray:
    """The reward of each response: how often it says the word.

    >>> count_word(["tea for two", "tea, tea", "steam", "tea tea"])
    array([1., 1., 0., 2.])
    """
    return np.array([text.split().count(WORD) for text in texts], np.float64)  # (B,)


# ── learning ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(OnDevice):
    """Teach a tiny model to say one word with PPO and with GRPO, and compare both with the predicted level."""

    run: Path = Path("runs/one_word")  # run folder for all output
    iterations: int = 40  # batches of responses for each method
    responses: int = 64  # responses in a batch
    lr: float = 1.5e-3  # peak learning rate of the policy
    kl_coefficient: float = 0.5  # β: price of one nat of divergence from the babble; a lower one allows more "tea"
    measured: int = 1000  # responses in which the word is counted before and after
    seed: int = 0  # random seed

    def __post_init__(self) -> None:
        at_least_one(self, "iterations", "responses", "measured")
        above(self, 0, "lr", "kl_coefficient")
        if self.responses % GROUP:
            raise ValueError(f"one_word: expected responses to be a multiple of {GROUP}, a group of GRPO, got {self.responses}")


BABBLING = TrainConfig(steps=200, batch_size=32, lr=3e-3, min_lr=3e-5, warmup_steps=10, weight_decay=0.0)
LONGEST = 12  # tokens, a third more than a response has


def learn_to_babble(seed: int, run: Run) -> tuple[GPT, Tokenizer]:
    """A model of one block, trained from scratch with the chapter's instruction tuning."""
    tasks = babble(6000, seed)
    tokenizer = learn_tokenizer([f"{task.instruction}\n{task.output} {task.output}" for task in tasks], 512)
    config = GPTConfig(tokenizer.vocab_size, context=64, n_layer=1, n_head=2, d_model=32)
    model = GPT(config, generator=mg.Generator(seed))
    fine_tune(model, tokenizer, tasks, replace(BABBLING, seed=seed), run)
    return model, tokenizer


def learn_the_word(babbler: GPT, tokenizer: Tokenizer, name: str, settings: Settings, run: Run) -> tuple[GPT, list[float]]:
    """A copy of the babbler, trained by the method of this name, and the mean reward of every batch."""

    def score(tasks: Sequence[Instruction], rollouts: Rollouts) -> np.ndarray:
        return count_word(rollouts.texts(tokenizer))

    policy = copy.deepcopy(babbler)
    common: dict[str, Any] = dict(iterations=settings.iterations, prompts=settings.responses, max_new_tokens=LONGEST)
    common |= dict(lr=settings.lr, kl_coefficient=settings.kl_coefficient, missing_end=0.0, seed=settings.seed)
    if name == "PPO":
        ppo = PPOConfig(**common, value_lr=3 * settings.lr, kl_horizon=0, ptx_coefficient=0)  # β stays constant
        value_model = ScalarModel(copy.deepcopy(babbler), mg.Generator(settings.seed))
        method: tuple[LoopConfig, Learner, int] = ppo, PPO(policy, value_model, ppo), 1
    else:
        grpo = GRPOConfig(**common, k=GROUP, dr=True)
        method = grpo, GRPO(policy, grpo), GROUP
    config, learner, repeat = method
    task = babble(1, settings.seed)
    records = optimise(policy, babbler, tokenizer, score, task, config, run, learner, repeat=repeat)
    return policy, [record["reward"] for record in records]


def count_in_samples(model: GPT, tokenizer: Tokenizer, n: int, seed: int) -> np.ndarray:
    """How often each of n sampled responses says the word: (n,)."""
    return count_word(roll_out_many(model, tokenizer, babble(n, seed), LONGEST, mg.Generator(seed)).texts(tokenizer))


def draw_curves(path: Path, curves: Mapping[str, Sequence[float]], levels: Mapping[str, float]) -> Path:
    """Mean reward of each batch (solid), and the level that theory predicts (dashed)."""
    figure, axes = new_figure(6.2, 3.8)
    for name, rewards in curves.items():
        colour, marker = METHODS[name]
        axes.plot(rewards, color=colour, marker=marker, markevery=5, markersize=5, label=name)
        axes.axhline(levels[name], color=colour, linestyle="--", linewidth=1, label=f"{name}, predicted: {levels[name]:.2f}")
    axes.set(xlabel="iteration", ylabel=f"“{WORD}” in a response, mean of a batch", ylim=(0, LENGTH))
    axes.set_title(f"one point for each “{WORD}” in a response of eight words", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return save_figure(figure, path)


def main(settings: Settings) -> None:
    run = Run(settings.run)
    run.describe(command=settings)
    babbler, tokenizer = learn_to_babble(settings.seed, Run(run / "babbler"))
    before = count_in_samples(babbler, tokenizer, settings.measured, settings.seed)
    levels, curves = predicted_counts(settings.kl_coefficient), {}
    scores: dict[str, Any] = {"before": float(before.mean())}
    for name, level in levels.items():
        policy, curves[name] = learn_the_word(babbler, tokenizer, name, settings, Run(run / name.lower()))
        after = count_in_samples(policy, tokenizer, settings.measured, settings.seed + 1)
        scores[name] = {"after": float(after.mean()), "interval": bootstrap_interval(after), "predicted": level}
    shown = range(0, settings.iterations + 1, max(1, settings.iterations // 10))
    print(f"{'iteration':<10}" + "".join(f"{i:>6}" for i in shown))
    for name, rewards in curves.items():
        print(f"{name:<10}" + "".join(f"{rewards[i]:>6.1f}" for i in shown))
    print(f'"{WORD}" in a response of {LENGTH} words: {before.mean():.2f} before')
    for name, result in ((name, scores[name]) for name in levels):
        low, high = result["interval"]
        print(f"{name:<10}{result['after']:.2f} [{low:.2f}, {high:.2f}], predicted {result['predicted']:.2f}")
    run.write_scores(scores)
    print(f"figure: {draw_curves(run / 'figures' / 'one_word.svg', curves, levels)}")


if __name__ == "__main__":
    command(main, Settings)
