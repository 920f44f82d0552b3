"""Chapter 10, a bag of words: the simplest reward model, and the one that a sceptic asks for first.

A reward model may have learned to read a response against its prompt. Or it may have learned that "gladly" pleases and "lazy"
offends. To see how far the second kind gets, fit it alone:

    reward(response) = Σ over words of (how often the word occurs) · (the word's weight)

This model never sees the prompt, nor the order of the words. By Bradley and Terry's formula the log-odds of a comparison are
the difference of two rewards, so they are linear in the difference of the counts: logistic regression without an intercept.

`chapters/ch10/reward.py` fits it to the same comparisons as the reward model and prints both. Look at the distance between the
two. Only what the reward model adds to the bag of words can come from reading. Then look at the heaviest words, which say what
the labeller pays for.

Source: Bradley and Terry 1952. The fit is Newton's method; see Boyd and Vandenberghe, "Convex Optimization", section 9.5.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from chapters.support.batches import random_split
from chapters.world.reading import words

Pair: TypeAlias = tuple[str, str]  # two responses to one prompt: the preferred one, and the other

# ── from words to numbers ────────────────────────────────────────────────────────────────────────────────────────────


def vocabulary_of(texts: Iterable[str], least: int = 2, most: int = 1000) -> list[str]:
    """The words that occur in `least` texts or more, at most the `most` commonest of them, in alphabetical order."""
    occurrences = Counter(word for text in texts for word in set(words(text)))
    common = sorted(occurrences, key=lambda word: (-occurrences[word], word))[:most]
    return sorted(word for word in common if occurrences[word] >= least)


def word_counts(texts: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """How often each of V words occurs in each of N texts: (N, V) float64.

    >>> word_counts(["Gladly. Mira lives in Oak, in a house."], ["gladly", "in", "lazy"])
    array([[1., 2., 0.]])
    """
    columns, counts = {word: i for i, word in enumerate(vocabulary)}, np.zeros((len(texts), len(vocabulary)))
    for row, text in zip(counts, texts, strict=True):
        for word in words(text):
            if word in columns:
                row[columns[word]] += 1
    return counts


def count_differences(pairs: Sequence[Pair], vocabulary: Sequence[str]) -> np.ndarray:
    """The preferred response's counts less the other's, for P pairs: (P, V)."""
    preferred, other = ([pair[side] for pair in pairs] for side in (0, 1))
    return word_counts(preferred, vocabulary) - word_counts(other, vocabulary)


# ── the fit ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def log_loss(differences: np.ndarray, weights: np.ndarray, error: float = 0.0) -> float:
    """−Σ log P(choice): the surprise at P comparisons in nats.  differences: (P, V); weights: (V,).

    A labeller who tosses a coin in a share `error` of the comparisons chooses like this with probability
    (1 − error) σ(differences · weights) + error / 2 (Christiano et al. 2017, arXiv:1706.03741, section 2.2.3).
    """
    meant = math.log1p(-error) - np.logaddexp(0, -(differences @ weights))  # (P,)
    return -float(np.logaddexp(math.log(error / 2) if error else -math.inf, meant).sum())


def bradley_terry(differences: np.ndarray, penalty: float, tolerance: float = 1e-10, error: float = 0.0) -> np.ndarray:
    """The weights that minimise log_loss + penalty / 2 · |weights|², by Newton's method: (P, V) -> (V,) float64.

    A step is halved until the objective falls. The search ends with the step that promises less than `tolerance` nats.
    With an `error` above 0 each comparison counts as much as it was probably meant, as in the EM algorithm.

    Raises:
        ValueError: unless penalty > 0. Without it a word that only preferred responses have would weigh infinitely much.
    """
    if not penalty > 0:
        raise ValueError(f"bradley_terry: expected penalty > 0, got {penalty}")

    def objective(weights: np.ndarray) -> float:
        return log_loss(differences, weights, error) + 0.5 * penalty * float(weights @ weights)

    weights = np.zeros(differences.shape[1])  # (V,)
    for _ in range(100):
        gaps = differences @ weights  # (P,)
        surprise = 0.5 * (1 - np.tanh(0.5 * gaps))  # (P,) 1 − σ, the probability of the other choice
        meant = (1 - error) / (1 - error + error / 2 * (1 + np.exp(np.minimum(-gaps, 700))))  # (P,) probability of no coin
        gradient = penalty * weights - differences.T @ (meant * surprise)  # (V,)
        curvature = differences * (meant * surprise * (1 - surprise))[:, None]  # (P, V)
        step = np.linalg.solve(differences.T @ curvature + penalty * np.eye(len(weights)), gradient)  # (V,)
        if gradient @ step < tolerance:
            return weights - step
        size = 1.0
        while objective(weights - size * step) > objective(weights):
            size /= 2
        weights = weights - size * step
    return weights


@dataclass(frozen=True)
class BagOfWords:
    """A linear reward model over word counts."""

    vocabulary: list[str]  # V words
    weights: np.ndarray  # (V,), in units of log-odds
    penalty: float  # the penalty with which they were fitted

    def rewards(self, texts: Sequence[str]) -> np.ndarray:
        """The reward of each of N responses: (N,)."""
        return word_counts(texts, self.vocabulary) @ self.weights

    def gaps(self, pairs: Sequence[Pair]) -> np.ndarray:
        """r_preferred − r_other of P comparisons: (P,)."""
        return count_differences(pairs, self.vocabulary) @ self.weights

    def heaviest(self, n: int) -> dict[str, float]:
        """The n words with the largest weights, positive or negative, largest first."""
        order = np.argsort(-np.abs(self.weights), kind="stable")[:n]
        return {self.vocabulary[i]: round(float(self.weights[i]), 2) for i in order}


PENALTIES = 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03


def fit(groups: Sequence[Sequence[Pair]], seed: int) -> BagOfWords:
    """Fit a bag of words to comparisons.

    A fifth of the prompts is set aside to choose the penalty; the weights are then fitted to all prompts. With fewer than
    five prompts the penalty is the middle one of PENALTIES.

    groups: each prompt's pairs. One prompt's pairs stay together, or its responses would stand on both sides of the split.
    """

    def pairs_of(groups: Sequence[Sequence[Pair]]) -> list[Pair]:
        return [pair for group in groups for pair in group]

    pairs, penalty = pairs_of(groups), PENALTIES[len(PENALTIES) // 2]
    vocabulary = vocabulary_of(text for pair in pairs for text in pair)
    fitting, validation = (
        count_differences(pairs_of(part), vocabulary) for part in random_split(groups, len(groups) // 5, seed)
    )  # (P1, V), (P2, V)
    if len(validation):
        penalty = min(PENALTIES, key=lambda penalty: log_loss(validation, bradley_terry(fitting, penalty)))
    return BagOfWords(vocabulary, bradley_terry(count_differences(pairs, vocabulary), penalty), penalty)


# ── what choosing by a reward earns ──────────────────────────────────────────────────────────────────────────────────


def gain_by_choosing(rewards: np.ndarray, values: np.ndarray) -> float:
    """The mean value of the response with the highest reward, less the mean value of all n responses.

    rewards, values: (N, n), for n responses to each of N prompts. Responses with equal rewards share the choice.

    >>> gain_by_choosing(np.array([[1.0, 3.0], [2.0, 2.0]]), np.array([[5.0, 7.0], [4.0, 8.0]]))
    0.5
    """
    chosen = rewards == rewards.max(axis=1, keepdims=True)  # (N, n)
    best = (values * chosen).sum(axis=1) / chosen.sum(axis=1)  # (N,)
    return float((best - values.mean(axis=1)).mean())


def baseline_text(result: dict[str, Any]) -> str:
    """The result of `chapters.ch10.reward.compare_with_words` on one or two lines, for the terminal."""
    bag, gains = result["bag of words"], result.get("best of n")
    ceiling = f", {bag['share of the ceiling']:.1%} of the ceiling" if "ceiling" in bag else ""
    heaviest = ", ".join(f"{word} {weight:+.1f}" for word, weight in bag["heaviest words"].items())
    line = f"a bag of {bag['words']} words: {bag['accuracy']:.2%} of the same comparisons right{ceiling} ({heaviest})"
    if not gains:
        return line
    return (
        f"{line}\nthe best of {gains['n']} responses gains {gains['reward model']:+.2f} of the judge's 8 points if the reward "
        f"model chooses, {gains['bag of words']:+.2f} if the bag of words does, {gains['judge']:+.2f} if the judge does"
    )
