"""The report: every measure beside its criterion, and ten answers before and after that nobody selected."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from chapters.ch10.bag_of_words import BagOfWords, fit
from chapters.ch10.reward import accuracy
from chapters.ch10.taste.measures import mean_recall, share_preferred, wilson
from chapters.ch10.taste.reader import indented
from chapters.support.readers import ResponsePair
from chapters.world import Instruction
from chapters.world.reading import words

# Fixed before the first full run; see the package's docstring.
REWARD_RIGHT, PREFERRED, RECALL_LOST = 0.90, 0.70, 0.03


def fit_words(pairs: Sequence[ResponsePair], seed: int) -> BagOfWords:
    """A bag of words from pairs."""
    return fit([[(pair.chosen, pair.rejected)] for pair in pairs], seed)


def measure_rewards(
    rewards: dict[str, Any], judge: dict[str, Any] | None, bags: Sequence[BagOfWords], tests: Sequence[ResponsePair]
) -> dict[str, Any]:
    """How many tests the reward models and the bags of words get right.

    Args:
        rewards, judge: results of the stages; "gaps" are r_chosen − r_rejected of the tests, (P,). Without a judge there is
            one reward model; with one, the mean of both rewards is measured too.
        bags: bags of words from the same pairs: of the reward model, of the judge, and of both.
        tests: P held-out pairs.
    """
    gaps = [np.array(result["gaps"]) for result in (rewards, judge) if result]
    gaps += [gaps[0] + gaps[1]] if judge else []
    texts = [(pair.chosen, pair.rejected) for pair in tests]
    words_right = [accuracy(bag.gaps(texts)) for bag in bags]
    return {"tests": len(tests), "right": [accuracy(g) for g in gaps], "bags": words_right, "heaviest": bags[-1].heaviest(6)}


def measure_answers(tasks: Sequence[Instruction], before: Sequence[str], after: Sequence[str]) -> dict[str, Any]:
    """Recall of the gold answers' words, and the mean number of words, before and after."""
    golds = [task.output for task in tasks]
    sides = {"before": before, "after": after}
    lengths = {name: float(np.mean([len(words(answer)) for answer in answers])) for name, answers in sides.items()}
    return {name: {"recall": mean_recall(golds, sides[name]), "words": lengths[name]} for name in sides}


def measure_preference(
    rewards: dict[str, Any],
    judge: dict[str, Any],
    bag: BagOfWords,
    drafts: Sequence[Sequence[str]],
    before: Sequence[str],
    after: Sequence[str],
) -> dict[str, Any]:
    """How often the judge, and a bag of words from the judge's pairs, prefers the best of k drafts, and the tuned model.

    drafts: the texts of the k drafts of the first tests, whose rewards are in rewards["tests"] and judge["tests"].
    """
    best = np.argmax(rewards["tests"], axis=1).tolist()  # (tests,)
    scores = np.array(judge["tests"])  # (tests, k)
    bag_scores = np.array([bag.rewards(texts) for texts in drafts])  # (tests, k)
    numbers = np.arange(len(best))
    wins = share_preferred(np.ravel(judge["after"]), np.ravel(judge["before"]))
    return {
        "best of k": [share_preferred(table[numbers, best], table[:, 0]) for table in (scores, bag_scores)],
        "best of k tests": len(best),
        "preferred": wins,
        "preferred interval": wilson(wins * len(after), len(after)),
        "preferred by the bag": share_preferred(bag.rewards(after), bag.rewards(before)),
    }


def verdict(passed: bool) -> str:
    return "yes" if passed else "no"


def report_text(scores: dict[str, Any], k: int) -> str:
    """The figures and the verdicts, a line each."""
    before, after, right = scores["before"], scores["after"], scores["right"]
    lost = before["recall"] - after["recall"]
    heaviest = ", ".join(f"{word} {weight:+.1f}" for word, weight in scores["heaviest"].items())
    low, high = wilson(right[-1] * scores["tests"], scores["tests"])
    both = ""
    if right[1:]:
        alone = f"the one that scores the drafts {right[0]:.1%} alone, the judge {right[1]:.1%}"
        both = f", by the mean reward of two models ({alone})"
    bags = ", ".join(f"{share:.1%}" for share in scores["bags"])
    lines = [
        f"rewards: {right[-1]:.1%} of {scores['tests']} held-out pairs right [{low:.1%}, {high:.1%}]{both}; "
        f"criterion: at least {REWARD_RIGHT:.0%}: {verdict(right[-1] >= REWARD_RIGHT)}",
        f"   bags of words from the same pairs{' (each half, and both)' if right[1:] else ''}: {bags} ({heaviest})",
    ]
    if "preferred" in scores:
        (low, high), best = scores["preferred interval"], scores["best of k"]
        lines += [
            f"best of {k}: the judge prefers it to one draft on {best[0]:.1%} of {scores['best of k tests']} tests, "
            f"a bag of words from the judge's pairs on {best[1]:.1%}",
            f"DPO: the judge prefers its answers to the original's on {scores['preferred']:.1%} of the tests "
            f"[{low:.1%}, {high:.1%}]; criterion: at least {PREFERRED:.0%}: {verdict(scores['preferred'] >= PREFERRED)}",
            f"   the bag of words on {scores['preferred by the bag']:.1%}",
        ]
    else:
        lines.append("no judge: all labels are yours, so only your own blind test can judge")
    if np.isfinite(lost):
        lines.append(
            f"recall of the gold answers' words: {before['recall']:.1%} before, {after['recall']:.1%} after; "
            f"criterion: at most {100 * RECALL_LOST:.0f} points lower: {verdict(lost <= RECALL_LOST)}"
        )
    lines.append(f"words in an answer: {before['words']:.1f} before, {after['words']:.1f} after")
    return "\n".join(lines)


def answers_text(tasks: Sequence[Instruction], before: Sequence[str], after: Sequence[str], n: int = 10) -> str:
    """The first n held-out instructions, in the order of the random split, with both answers."""
    blocks = []
    for task, old, new in list(zip(tasks, before, after, strict=True))[:n]:
        request = f"{task.instruction}\n{task.input}".strip()
        blocks.append(f"{indented(request, '')}\n{indented(old, '   before | ')}\n{indented(new, '   after  | ')}")
    return "\n\n".join(blocks)
