"""Chapter 10, constitutional AI's second phase: a model reads a principle and two responses, and says which fits better.

What this file teaches: where a labeller stood, a model can stand that reads (Bai et al. 2022, arXiv:2212.08073,
section 4.1: reinforcement learning from AI feedback). Ours gives a response and a principle a number, and of two
responses prefers the one with the higher number with probability σ of the difference. That is a reward model with the
principle in its prompt, and it is trained by `ch10_reward` unchanged, on responses that fit principles of every kind
more or less. Whole principles are held out, so that it can be shown to read them: turned round, from "prefer" to
"avoid", its answer must turn round too, and with another principle in place of the right one it should know nothing.
"""

import numpy as np

import minigrad as mg
from chapters.ch10_assess import interval
from chapters.ch10_critic import asked
from chapters.ch10_principles import LEADS, draw_parts, draw_principle, options, revise
from chapters.ch10_reward import Ranking, accuracy, gaps_of, rank, reward_scores
from chapters.ch10_rollout import roll_out_many
from chapters.world.facts import Dice
from chapters.world.requests import REQUESTS, requests

# ── lessons ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def cases(world, n, split, kinds, seed, k=4):
    """n of (task, principle, [response]): k different responses each, of which some fit and some do not."""
    dice, found = Dice(f"cases/{world.seed}/{split}/{','.join(kinds)}/{seed}"), []
    for i, task in enumerate(requests(world, split, n, seed)):
        principle = draw_principle(split, kinds[i % len(kinds)], dice)
        topics = [topic for *_, topic in principle.meaning if topic]
        drawn = []
        while len(set(drawn)) < k or len({principle.degree(task, said) for said in drawn}) < 2:
            choices = options(world, task, topics[0] if topics else "", dice)
            parts = draw_parts(choices, dice)
            better = revise(parts, principle, task, choices, dice) if dice.chance(0.5) else parts
            drawn = (list(dict.fromkeys([*drawn, (better or parts).text])))[-k:]
        found.append((task, principle, drawn))
    return found


def as_ranking(task, principle, responses, tokenizer, text=None):
    """A case as the Ranking that ch10_reward learns from; `text` may put another principle into the place of the right
    one.  Where two responses fit equally well, each is preferred once: the reader should not care."""
    rows = [tokenizer.encode(asked(task.instruction, said, text or principle.text)) for said in responses]
    degrees = [principle.degree(task, said) for said in responses]
    pairs = [(a, b) for a in range(len(rows)) for b in range(len(rows)) if a != b and degrees[a] >= degrees[b]]
    return Ranking(rows, pairs, [])


def told_apart(ranking):
    """The same, without the comparisons whose answer is that it does not matter."""
    return Ranking(ranking.rows, [(a, b) for a, b in ranking.pairs if (b, a) not in ranking.pairs], [])


def fitting(rankings, context):
    """Those whose every row fits into the context."""
    return [ranking for ranking in rankings if max(map(len, ranking.rows)) <= context]


# ── does it read? ────────────────────────────────────────────────────────────────────────────────────────────────────


def turned(principle):
    """The text of the opposite principle: "prefer" for "avoid", "choose" for "never choose", and back."""
    for sign, leads in LEADS.items():
        for lead, opposite in zip(leads, LEADS[-sign], strict=True):
            if principle.text.startswith(lead + " "):
                return principle.text.replace(lead, opposite, 1)
    raise ValueError(f"{principle.text!r} begins like no principle of the lessons.")


def measure_reading(reader, tokenizer, some, seed=0):
    """Of held-out cases: the share of comparisons the reader gets right ("accuracy", and "interval" by cases); the same
    when every principle is turned round ("turned", right is then the other one); and with another case's principle in
    the place of the right one ("shuffled", which should be near a half, for there is nothing to know)."""
    context = reader.config.context
    others = Dice(f"shuffled/{seed}").shuffled(some)
    found, shares = {}, []
    for name in ("accuracy", "turned", "shuffled"):
        gaps = []
        for (task, principle, said), other in zip(some, others, strict=True):
            text = {"accuracy": None, "turned": turned(principle), "shuffled": other[1].text}[name]
            gaps.append(told_apart(as_ranking(task, principle, said, tokenizer, text)))
        kept = fitting(gaps, context)
        values, first = gaps_of(reader, kept), 0
        found[name] = 1 - accuracy(values) if name == "turned" else accuracy(values)
        if name == "accuracy":
            for ranking in kept:
                shares.append(accuracy(values[first : first + len(ranking.pairs)]))
                first += len(ranking.pairs)
            found["comparisons"], found["interval"] = len(values), interval(shares, seed)
    return found


# ── its preferences ──────────────────────────────────────────────────────────────────────────────────────────────────


class Feedback:
    """Stands in the labeller's place: compares responses to one request by one principle."""

    def __init__(self, reader, tokenizer, principle):
        self.reader, self.tokenizer, self.principle = reader, tokenizer, principle

    def fits(self, task, responses):
        """(N,) how well each response fits the principle, by the reader."""
        rows = [self.tokenizer.encode(asked(task.instruction, said, self.principle)) for said in responses]
        return reward_scores(self.reader, [row[-self.reader.config.context :] for row in rows])  # (N,)

    def probability(self, task, a, b):
        """The probability that response a fits better than response b."""
        one, other = self.fits(task, [a, b])
        return float(1 / (1 + np.exp(np.clip(other - one, -50, 50))))


def compare(policy, tokenizer, judge, reader, constitution, tasks, k, seed, max_new_tokens=48):
    """k responses of the policy to each task, compared -> [Ranking].  Of requests to be refused the reader compares
    them, by a principle drawn from the constitution; of plain tasks the simulated labeller."""
    repeated = [task for task in tasks for _ in range(k)]
    rollouts = roll_out_many(policy, tokenizer, repeated, max_new_tokens, mg.Generator(seed))
    texts, dice, rankings = rollouts.texts(tokenizer), Dice(f"feedback/{seed}"), []
    for i, task in enumerate(tasks):
        labeller = judge
        if task.family in REQUESTS:
            labeller = Feedback(reader, tokenizer, dice.pick(constitution))
        mine = slice(i * k, (i + 1) * k)
        rankings.append(rank(labeller, task, rollouts.prompts[i * k], rollouts.responses[mine], texts[mine], dice))
    return [ranking for ranking in rankings if ranking is not None]
