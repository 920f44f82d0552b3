"""Rewards for Christiano's row: the judge's own score, and linear rewards that learn online from a few comparisons.

Each reward is centred on the responses to a prompt, and scaled to a standard deviation of 1 over the SFT model's responses in
the first batch. So a nat of KL costs all of them equally much.

A learned reward is linear, because few comparisons bear few weights. It adds up the weights of a response's words, and it reads
the response against the prompt through the frozen SFT model: how likely does that model find the response, and how many of its
words come from the prompt? A bag of words is the same without this reading.

Source: Christiano et al. 2017 (arXiv:1706.03741), section 2.2.3: the ensemble, its held-out comparisons, the labeller's errors.
The paper shows the labeller the pairs on which the members differ most, and finds that this impairs some tasks (section 2.2.4).
Here the labeller sees the prompts with the most different responses, because equal responses leave nothing to compare. With 252
prompts that is nearly the whole first batch, and half of each later one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from chapters.ch01_tokenizer import Tokenizer
from chapters.ch10.bag_of_words import bradley_terry, log_loss, vocabulary_of, word_counts
from chapters.ch10.harness import judge_scorer
from chapters.ch10.rollout import Rollouts
from chapters.ch10.sft import Tasks
from chapters.support.command import at_least, at_least_one
from chapters.world.facts import SeededRandom
from chapters.world.judge import Judge
from chapters.world.reading import words


@dataclass
class OnlineConfig:
    """How a reward is learned online."""

    rounds: int = 7  # times that the labeller is asked; the first time about twice as many prompts as later
    members: int = 5  # linear rewards to average
    error: float = 0.1  # share of the comparisons that the labeller is assumed to decide by a coin
    losses: tuple[float, float] = (1.1, 1.5)  # range of held-out loss over training loss that sets the L2 penalty

    def __post_init__(self) -> None:
        at_least_one(self, "rounds", "members")
        at_least(self, 0, "error")
        if not self.error < 1:
            raise ValueError(f"error must be below 1, got {self.error}")


def asked_at(prompts: int, iterations: int, rounds: int) -> dict[int, int]:
    """{iteration: prompts whose responses are compared}: twice the share at first, then equal shares, ever less often.

    The last round is in the middle of training.

    >>> asked_at(63, 100, 8)
    {0: 14, 1: 7, 4: 7, 9: 7, 16: 7, 26: 7, 37: 7, 50: 7}
    """
    ends = [round(prompts * (i + 1) / (rounds + 1)) for i in range(rounds + 1)]
    counts = np.diff([0, *ends[1:]])  # (rounds,)
    plan: dict[int, int] = {}
    for i, count in enumerate(counts):
        iteration = round(iterations / 2 * (i / max(rounds - 1, 1)) ** 2)
        plan[iteration] = plan.get(iteration, 0) + int(count)
    return plan


# ── rewards of one spread ────────────────────────────────────────────────────────────────────────────────────────────


def centred(rewards: np.ndarray, k: int) -> np.ndarray:
    """Each reward minus the mean of its prompt's k responses; RLOO uses nothing else.  (…, B) -> (…, B).

    >>> centred(np.array([1.0, 3.0, 7.0, 7.0]), 2)
    array([-1.,  1.,  0.,  0.])
    """
    groups = rewards.reshape(*rewards.shape[:-1], -1, k)  # (…, B / k, k)
    return (groups - groups.mean(axis=-1, keepdims=True)).reshape(rewards.shape)


class TrueReward:
    """score(tasks, rollouts) for `optimise`: the judge's score, in units of its spread over the first call's responses."""

    def __init__(self, judge: Judge, tokenizer: Tokenizer, k: int):
        self.judge, self.k, self.spread = judge_scorer(judge, tokenizer), k, 0.0

    def __call__(self, tasks: Tasks, rollouts: Rollouts) -> np.ndarray:
        rewards = centred(self.judge(tasks, rollouts), self.k)  # (B,)
        self.spread = self.spread or float(rewards.std()) or 1.0
        return rewards / self.spread


@dataclass(frozen=True)
class Responses:
    """B responses as a linear reward sees them."""

    texts: list[str]
    readings: np.ndarray  # (B, F), see `readings_of`; F = 0 for a bag of words
    pairs: Sequence[tuple[int, int]] = ()  # the labeller's comparisons: (number of the preferred response, number of the other)

    def part(self, rows: slice) -> "Responses":
        return Responses(self.texts[rows], self.readings[rows])


def readings_of(tasks: Tasks, rollouts: Rollouts, texts: Sequence[str]) -> np.ndarray:
    """What the frozen SFT model and the prompt say of each response, (B, 6).

    The columns: the log-probability of the whole response, its mean and its lowest over the tokens, the number of tokens, and
    the numbers of words that occur in the prompt and that do not.
    """
    assert rollouts.reference_log_probs is not None  # (B, T − 1); `optimise` adds them
    rows = []
    for task, text, of_tokens, mask in zip(tasks, texts, rollouts.reference_log_probs, rollouts.mask, strict=True):
        chosen, asked = of_tokens[mask], set(words(f"{task.instruction} {task.input}"))
        repeated = sum(word in asked for word in words(text))
        rows.append([chosen.sum(), chosen.mean(), chosen.min(), len(chosen), repeated, len(words(text)) - repeated])
    return np.array(rows)


# ── the reward that is learned online ────────────────────────────────────────────────────────────────────────────────


class OnlineReward:
    """score(tasks, rollouts) for `optimise`: linear rewards that learn from comparisons of the responses they score.

    plan: {call: prompts whose k responses the labeller then compares}. The first call must score the SFT model's responses.
    reads: whether the rewards have the columns of `readings_of` beside the word counts.
    """

    def __init__(
        self,
        judge: Judge,
        tokenizer: Tokenizer,
        config: OnlineConfig,
        plan: dict[int, int],
        k: int,
        seed: int,
        reads: bool = True,
    ):
        self.judge, self.tokenizer, self.config = judge, tokenizer, config
        self.plan, self.k, self.reads, self.calls = plan, k, reads, 0
        self.labeller = SeededRandom(f"online/{seed}")
        self.draws = np.random.default_rng(seed)
        self.compared: list[Responses] = []
        self.vocabulary: list[str] = []
        self.weights = np.zeros((0, 0))  # (members, V + F)
        self.penalties: list[float] = []  # the members', after the last fit

    def __call__(self, tasks: Tasks, rollouts: Rollouts) -> np.ndarray:
        responses = self.describe(tasks, rollouts)
        if self.calls == 0:
            self.first = responses
            self.mean, self.scale = responses.readings.mean(axis=0), responses.readings.std(axis=0) + 1e-6  # (F,) each
        if self.calls in self.plan:
            self.ask(tasks, responses, self.varied(responses, self.plan[self.calls]))
            self.learn()
        self.calls += 1
        return self.rewards(responses).mean(axis=0)  # (B,)

    def describe(self, tasks: Tasks, rollouts: Rollouts) -> Responses:
        texts = rollouts.texts(self.tokenizer)
        if not self.reads:
            return Responses(texts, np.zeros((len(texts), 0)))
        return Responses(texts, readings_of(tasks, rollouts, texts))

    def columns(self, responses: Responses) -> np.ndarray:
        """The word counts of the responses, and their readings in units of the SFT model's spread: (B, V + F)."""
        return np.hstack([word_counts(responses.texts, self.vocabulary), (responses.readings - self.mean) / self.scale])

    def rewards(self, responses: Responses) -> np.ndarray:
        """Each member's reward of each response, less the mean over the prompt's k responses: (members, B)."""
        return centred(self.weights @ self.columns(responses).T, self.k)

    def varied(self, responses: Responses, n: int) -> np.ndarray:
        """Numbers of the n prompts with the most different responses, because equal responses have nothing to compare."""
        groups = [responses.texts[first : first + self.k] for first in range(0, len(responses.texts), self.k)]
        return np.argsort([-len(set(group)) for group in groups], kind="stable")[:n]

    def ask(self, tasks: Tasks, responses: Responses, prompts: np.ndarray) -> None:
        """Let the labeller compare every two different responses to each of some prompts."""
        for first in prompts * self.k:
            group = responses.part(slice(first, first + self.k))
            different = [i for i, text in enumerate(group.texts) if text not in group.texts[:i]]
            pairs = []
            for a, b in combinations(different, 2):
                preferred = self.judge.prefers(tasks[first], group.texts[a], group.texts[b], self.labeller)
                pairs.append((a, b) if preferred else (b, a))
            self.compared.append(replace(group, pairs=pairs))

    def learn(self) -> None:
        """Fit all members anew to all comparisons so far. Each, and their mean, gets a spread of 1 over the first responses."""
        self.vocabulary = vocabulary_of(text for compared in self.compared if compared.pairs for text in compared.texts)
        differences = []  # for each prompt (P, V + F): the preferred response's columns less the other's
        for compared in self.compared:
            columns = self.columns(compared)  # (k, V + F)
            differences.append(np.array([columns[a] - columns[b] for a, b in compared.pairs]).reshape(-1, columns.shape[1]))
        fitted = [fit_member(differences, self.config, self.draws) for _ in range(self.config.members)]
        self.penalties, self.weights = [penalty for _, penalty in fitted], np.array([weights for weights, _ in fitted])
        self.weights /= self.rewards(self.first).std(axis=1, keepdims=True) + 1e-9
        self.weights /= self.rewards(self.first).mean(axis=0).std() + 1e-9

    def heaviest(self, n: int) -> dict[str, float]:
        """The n words with the largest weights in the members' mean, positive or negative."""
        mean = self.weights.mean(axis=0) if len(self.weights) else np.zeros(0)
        order = np.argsort(-np.abs(mean[: len(self.vocabulary)]), kind="stable")[:n]
        return {self.vocabulary[i]: round(float(mean[i]), 2) for i in order}


def fit_member(differences: Sequence[np.ndarray], config: OnlineConfig, draws: np.random.Generator) -> tuple[np.ndarray, float]:
    """Fit one member to prompts drawn with replacement; the others set its L2 penalty (section 2.2.3).

    The penalty begins at 1. It rises by half while held-out loss over training loss is above config.losses, and falls by half
    while the ratio is below, at most twelve times.

    differences: (P, V) for each of N prompts.  Returns (V,) weights and the penalty.
    """
    drawn = draws.integers(0, len(differences), len(differences))  # (N,)
    fitting = np.concatenate([differences[i] for i in drawn])  # (P1, V)
    held_out = np.concatenate([part for i, part in enumerate(differences) if i not in drawn] or [fitting[:0]])  # (P2, V)
    (low, high), penalty = config.losses, 1.0
    for _ in range(12):
        weights = bradley_terry(fitting, penalty, 1e-4, config.error)
        if not (len(fitting) and len(held_out)):
            break
        of_held_out, of_fitting = (log_loss(part, weights, config.error) / len(part) for part in (held_out, fitting))
        if low <= of_held_out / of_fitting <= high:
            break
        penalty *= 1.5 if of_held_out > high * of_fitting else 0.5
    return weights, penalty
