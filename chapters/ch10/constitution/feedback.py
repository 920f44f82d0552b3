"""Chapter 10, constitutional AI's second phase: a model says which of two responses fits a constitution better.

A model that reads can take the labeller's place: reinforcement learning from AI feedback (Bai et al. 2022,
arXiv:2212.08073, section 4.1). For each response and principle the critic writes a critique such as "It is rude. It
should not be, so no." The log-odds of "yes" against "no" say how well the response fits. The critic prefers the response
with the higher sum over all principles. In outline:

    score(response) = Σ over principles of log P("yes") − log P("no")
    prefer a to b if score(a) > score(b)

If the critic had to say yes or no at once, it would do little better than guessing. It has to read the response, read the
principle and compare the two, which is more than the model learns to do in one pass. So it writes both readings down first: the
paper's chain of thought. This makes a model too sure of itself, so we clamp the log-odds, as the paper clamps probabilities.

`measure_reading` tests the critic on held-out principles. No lesson contains these principles, but the lessons contain their
parts. Often a lesson has the same sentence with another beginning, such as "avoid" for "prefer". The two qualities of a pair
occur in separate lessons, or together in other directions. With the opposite principle the critic must prefer the other
response. With another case's principle its accuracy should be a half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT
from chapters.ch08_sample import generate
from chapters.ch10.assess import bootstrap_interval
from chapters.ch10.comparisons import Labeller, Ranking, rank_rollouts
from chapters.ch10.constitution.critic import critique_prompt
from chapters.ch10.constitution.principles import (
    LEADS,
    Principle,
    Texts,
    draw_parts,
    draw_principle,
    part_choices,
    revise,
)
from chapters.ch10.rollout import Recorder, roll_out_many
from chapters.ch10.sft import Tasks
from chapters.support.batches import shortest_first
from chapters.world import Instruction, World
from chapters.world.facts import SeededRandom
from chapters.world.judge import Judge, names_others
from chapters.world.requests import REQUESTS, requests
from minigrad import distributed

CLAMP = 1.0  # log-odds at which a verdict is clamped
MARGIN = 0.5  # scores closer than half a verdict count as equal

# ── how well a response fits ─────────────────────────────────────────────────────────────────────────────────────────


def constitution_scores(critic: GPT, tokenizer: Tokenizer, tasks: Tasks, responses: Texts, constitution: Texts) -> np.ndarray:
    """How well each response fits the whole constitution, (N,): the sum of its `fit_scores`, less CLAMP if it `names_others`.

    The critic reads whether a response gives a reason. It cannot tell whether the reason is about the right person: a model
    this small mixes up names. So a rule compares the words of request and response, and knows nothing else.

    The paper draws one principle for each comparison. A response without a reason would then lose only if the principle that
    asks for a reason is drawn, and a model as small as ours would learn to leave the reason out. We compare few responses, so
    reading each by every principle costs little.
    """
    scores = [fit_scores(critic, tokenizer, tasks, responses, [text] * len(tasks)) for text in constitution]  # (N,) each
    named_others = [names_others(task.instruction, response) for task, response in zip(tasks, responses, strict=True)]
    return np.sum(scores, axis=0) - CLAMP * np.array(named_others, float)  # (N,)


def fit_scores(
    critic: GPT,
    tokenizer: Tokenizer,
    tasks: Tasks,
    responses: Texts,
    principles: Texts,
    clamp: float = CLAMP,
    batch_size: int = 256,
    longest: int = 60,
) -> np.ndarray:
    """How well each response fits its principle according to the critic.

    Returns (N,) log-odds of "yes", clamped and then summed over the clauses of the critique; 0 if there is no verdict.
    """
    context, end = critic.config.context, tokenizer.eos_id
    texts = [critique_prompt(t.instruction, r, p) for t, r, p in zip(tasks, responses, principles, strict=True)]

    def judge(texts: Texts) -> np.ndarray:
        prompts = [tokenizer.encode(text)[: context - 1] for text in texts]
        scores = np.zeros(len(prompts))  # (n,)
        for places in shortest_first(prompts, batch_size):
            recorder, rooms = Recorder(), [min(longest, context - len(prompts[i])) for i in places]
            rows = generate(critic, [prompts[i] for i in places], rooms, temperature=0, stop_ids=(end,), observe=recorder)
            # the recorder saw the end tokens as well
            rows = [ids + [end] if len(ids) < room else ids for ids, room in zip(rows, rooms, strict=True)]
            log_probs, logits = recorder.log_probs(rows), logits_by_row(recorder, rows)
            for i, ids, p, z in zip(places, rows, log_probs, logits, strict=True):
                scores[i] = sum(np.clip(odds, -clamp, clamp) for odds in verdict_log_odds(ids, p, z, tokenizer))
        return scores

    return np.concatenate(distributed.current().map_shards(judge, texts))  # (N,)


def logits_by_row(recorder: Recorder, rows: Sequence[Sequence[int]]) -> list[list[np.ndarray]]:
    """The recorded logits of each generated row: B lists with a (V,) array for each step."""
    by_row: list[list[np.ndarray]] = [[] for _ in rows]
    for t, logits in enumerate(recorder.steps):  # (unfinished rows, V)
        unfinished = [b for b, ids in enumerate(rows) if len(ids) > t]
        for b, row_logits in zip(unfinished, logits, strict=True):
            by_row[b].append(row_logits)
    return by_row


def verdict_log_odds(
    ids: Sequence[int], log_probs: Sequence[float], logits: Sequence[np.ndarray], tokenizer: Tokenizer
) -> list[float]:
    """The log-odds of "yes" at each verdict of a critique.

    The critic writes the finding that it thinks likeliest, with probability p, and then "yes" with probability v. The opposite
    finding would reverse the verdict:  P(yes) = p v + (1 − p) (1 − v).

    Args:
        ids: the critique's T tokens.
        log_probs, logits: T log-probabilities of the tokens, and T arrays (V,).
    """
    spellings = tokenizer.encode(" yes"), tokenizer.encode(" no")
    j = next(i for i, (a, b) in enumerate(zip(*spellings, strict=False)) if a != b)  # the first token in which they differ
    yes, no, before = spellings[0][j], spellings[1][j], ", so" + tokenizer.decode(spellings[0][:j])
    odds, start = [], 0
    for t, token in enumerate(ids):
        if token in (yes, no) and tokenizer.decode(ids[:t]).endswith(before):
            p = np.exp(sum(log_probs[start:t]))
            v = 1 / (1 + np.exp(np.clip(float(logits[t][no]) - float(logits[t][yes]), -30, 30)))
            p_yes = np.clip(p * v + (1 - p) * (1 - v), 1e-9, 1 - 1e-9)
            odds.append(float(np.log(p_yes / (1 - p_yes))))
            start = t + 1
    return odds


# ── comparisons ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class AILabeller:
    """A Labeller that compares responses to one request by their scores."""

    scores: Mapping[str, float]  # {response: constitution score}

    def probability(self, task: Instruction, a: str, b: str) -> float:
        """The probability that response a is preferred to b: 1 or 0, or a half within the margin."""
        gap = self.scores[a] - self.scores[b]
        return 0.5 if abs(gap) < MARGIN else float(gap > 0)


def compare(
    policy: GPT,
    tokenizer: Tokenizer,
    judge: Judge,
    critic: GPT,
    constitution: Texts,
    tasks: Tasks,
    k: int,
    seed: int,
    max_new_tokens: int = 48,
) -> list[Ranking]:
    """Rankings of the policy's k responses to each task.

    The critic compares responses to harmful requests, by the constitution; the simulated judge compares the rest.
    """
    repeated = [task for task in tasks for _ in range(k)]
    rollouts = roll_out_many(policy, tokenizer, repeated, max_new_tokens, mg.Generator(seed))
    texts, rng = rollouts.texts(tokenizer), SeededRandom(f"feedback/{seed}")
    harmful = [i for i, task in enumerate(repeated) if task.family in REQUESTS]
    to_read = [repeated[i] for i in harmful], [texts[i] for i in harmful]
    scores = dict(zip(harmful, constitution_scores(critic, tokenizer, *to_read, constitution), strict=True))
    labellers: list[Labeller] = [judge] * len(tasks)
    for i, task in enumerate(tasks):
        if task.family in REQUESTS:
            labellers[i] = AILabeller({texts[j]: scores[j] for j in range(i * k, (i + 1) * k)})
    rankings = (without_ties(ranking) for ranking in rank_rollouts(labellers, tasks, rollouts, texts, rng))
    return [ranking for ranking in rankings if ranking is not None]


def without_ties(ranking: Ranking) -> Ranking | None:
    """The ranking without comparisons that a coin decided, since a tie teaches nothing; None if no comparison is left."""
    decided = [(pair, p) for pair, p in zip(ranking.pairs, ranking.probabilities, strict=True) if p != 0.5]
    return replace(ranking, pairs=[pair for pair, _ in decided], probabilities=[p for _, p in decided]) if decided else None


# ── does the critic read? ────────────────────────────────────────────────────────────────────────────────────────────


class ReadingCase(NamedTuple):
    """Different responses to one task, some of which fit the principle better than others."""

    task: Instruction
    principle: Principle
    responses: list[str]


def reading_cases(world: World, n: int, split: str, kinds: Texts, seed: int, k: int = 4) -> list[ReadingCase]:
    """n cases of k responses each, with principles from `split` whose kinds take turns."""
    rng, cases = SeededRandom(f"cases/{world.seed}/{split}/{','.join(kinds)}/{seed}"), []
    for i, task in enumerate(requests(world, "train", n, seed)):
        principle = draw_principle(split, kinds[i % len(kinds)], rng)
        responses: list[str] = []
        while len(set(responses)) < k or len({principle.degree(task, response) for response in responses}) < 2:
            choices = part_choices(world, task, principle.topic, rng)
            parts = draw_parts(choices, rng)
            revised = revise(parts, principle, task, choices, rng) if rng.chance(0.5) else parts
            responses = list(dict.fromkeys([*responses, (revised or parts).text]))[-k:]
        cases.append(ReadingCase(task, principle, responses))
    return cases


def opposite(principle: Principle) -> str:
    """The principle's text with "avoid" for "prefer", "never choose" for "choose", and the reverse."""
    for sign, leads in LEADS.items():
        for lead, opposite_lead in zip(leads, LEADS[-sign], strict=True):
            if principle.text.startswith(lead + " "):
                return principle.text.replace(lead, opposite_lead, 1)
    raise ValueError(f"opposite: expected a beginning that the lessons use, got {principle.text!r}")


def measure_reading(critic: GPT, tokenizer: Tokenizer, cases: Sequence[ReadingCase], seed: int = 0) -> dict:
    """How often the critic knows which of two responses fits a held-out principle better.

    Returns:
        "accuracy": share of right comparisons, with its 95% "interval"; "cases": number of cases.
        "turned": the accuracy with the opposite of every principle, under which the other response is right.
        "shuffled": the accuracy with another case's principle, which should be about a half.
    """
    texts = {
        "accuracy": [case.principle.text for case in cases],
        "turned": [opposite(case.principle) for case in cases],
        "shuffled": SeededRandom(f"shuffled/{seed}").shuffled([case.principle.text for case in cases]),
    }
    tasks = [case.task for case in cases for _ in case.responses]
    responses = [response for case in cases for response in case.responses]
    degrees = [[case.principle.degree(case.task, response) for response in case.responses] for case in cases]
    result: dict = {}
    for name, principles in texts.items():
        repeated = [text for text, case in zip(principles, cases, strict=True) for _ in case.responses]
        scores = fit_scores(critic, tokenizer, tasks, responses, repeated, clamp=np.inf)
        by_case = np.split(-scores if name == "turned" else scores, np.cumsum([len(truth) for truth in degrees])[:-1])
        shares = [pair_accuracy(values, truth) for values, truth in zip(by_case, degrees, strict=True)]
        result[name] = float(np.mean(shares))
        if name == "accuracy":
            result |= {"interval": bootstrap_interval(shares, seed), "cases": len(cases)}
    return result


def pair_accuracy(scores: np.ndarray, degrees: Sequence[int]) -> float:
    """The share of pairs of unequal degree that the scores put in the right order; equal scores are half right.

    >>> pair_accuracy(np.array([2.0, 1.0, 1.0]), [1, 0, -1])
    0.8333333333333334
    """
    pairs = [(a, b) for a, b in combinations(range(len(degrees)), 2) if degrees[a] != degrees[b]]
    agreement = [np.sign(scores[a] - scores[b]) * np.sign(degrees[a] - degrees[b]) for a, b in pairs]  # −1, 0 or 1
    return float(np.mean([(sign + 1) / 2 for sign in agreement]))
