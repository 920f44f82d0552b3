"""What the report measures: recall of the gold answers' words, the judges' preference, and an interval for a share."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from chapters.ch10.reward import accuracy
from chapters.world.reading import words


def wilson(wins: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share of `wins` in n independent choices, by Wilson's score (1927).

    Unlike share ± z √(share (1 − share) / n), it stays within 0 and 1 and is not empty if all choices agree.

    >>> [round(bound, 3) for bound in wilson(15, 20)]
    [0.531, 0.888]
    """
    if not 0 <= wins <= n or n < 1:
        raise ValueError(f"wilson: expected from 0 to n wins of n >= 1, got {wins} of {n}")
    share, weight = wins / n, z * z / n
    middle = share + weight / 2
    half = z * math.sqrt(share * (1 - share) / n + weight / n / 4)
    return max((middle - half) / (1 + weight), 0.0), min((middle + half) / (1 + weight), 1.0)


def recall(gold: str, answer: str) -> float:
    """The share of the gold answer's words that occur in the answer; a word that occurs twice is asked for twice.

    >>> recall("The capital is Paris.", "Paris is nice.")
    0.5
    """
    wanted, present = Counter(words(gold)), Counter(words(answer))
    return (wanted & present).total() / wanted.total()


def mean_recall(golds: Sequence[str], answers: Sequence[str]) -> float:
    """The mean recall over all gold answers that have words; NaN without any."""
    shares = [recall(gold, answer) for gold, answer in zip(golds, answers, strict=True) if words(gold)]
    return float(np.mean(shares)) if shares else math.nan


def share_preferred(after: np.ndarray, before: np.ndarray) -> float:
    """How often a judge's score rises, (N,) and (N,); equal scores count half.

    >>> share_preferred(np.array([2.0, 1.0]), np.array([0.0, 1.0]))
    0.75
    """
    return accuracy(after - before)
