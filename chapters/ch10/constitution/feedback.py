"""Chapter 10, constitutional AI's second phase: a model reads a principle and two responses; which fits better?

What this file teaches: where a labeller stood, a model can stand that reads (Bai et al. 2022, arXiv:2212.08073, section
4.1: reinforcement learning from AI feedback). Of each response the critic writes what it finds by the principle, "It is
rude. It should not be, so no."; how much likelier "yes" was than "no" is how well the response fits, and of two
responses the one that fits all principles together better is preferred. Asked for the yes or no at once it does little
better than guessing: that takes two readings and a comparison of them, more than it learns to do in one pass. To write
the readings down first is the paper's chain of thought, which makes a model too sure of itself, so that its
probabilities are clamped, there and here. Principles are held out, though not their parts: no lesson holds a held-out
sentence, but many hold its clause after another beginning, and most of them hold it turned round, from "prefer" to
"avoid"; a held-out pair is of qualities that were taught. Turned round, its answer must turn round too; with another
principle in the right one's place it should know nothing.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

import minigrad as mg
from chapters.ch08_sample import generate
from chapters.ch10.assess import bootstrap_interval
from chapters.ch10.constitution.critic import critique_prompt
from chapters.ch10.constitution.principles import LEADS, draw_parts, draw_principle, options, revise
from chapters.ch10.reward import rank_responses
from chapters.ch10.rollout import PAD, Recorder, roll_out_many
from chapters.support.batches import by_length
from chapters.world.facts import SeededRandom
from chapters.world.requests import REQUESTS, requests

CLAMP = 1.0  # the log-odds that one verdict is worth at most
MARGIN = 0.5  # two responses nearer to each other than half a verdict fit equally well

# ── which fits better ────────────────────────────────────────────────────────────────────────────────────────────────


def fits(critic, tokenizer, tasks, responses, principles, clamp=CLAMP, batch_size=64, longest=60):
    """How well each response fits its principle (a text), by the critic: (N,) log-odds of "yes", each clamped and then
    added up over the clauses of its critique; 0 where it comes to no verdict."""
    context, end = critic.config.context, tokenizer.eos_id
    texts = [critique_prompt(t.instruction, r, p) for t, r, p in zip(tasks, responses, principles, strict=True)]
    rows = [tokenizer.encode(text)[: context - 1] for text in texts]
    found = np.zeros(len(rows))  # (N,)
    for places, inputs in by_length(rows, batch_size, PAD):
        recorder, room = Recorder(), min(longest, context - inputs.shape[1])
        said = generate(critic, [rows[i] for i in places], room, temperature=0, stop_ids=(end,), observe=recorder)
        said = [ids + [end] if len(ids) < room else ids for ids in said]  # as the recorder saw them
        for i, ids, *steps in zip(places, said, recorder.log_probs(said), by_row(recorder, said), strict=True):
            found[i] = sum(np.clip(one, -clamp, clamp) for one in verdicts(ids, *steps, tokenizer))
    return found


def by_row(recorder, said):
    """The recorded logits of each row of generated ids: B lists of (V,), a step each."""
    found = [[] for _ in said]
    for t, logits in enumerate(recorder.steps):  # (rows, V)
        rows = [b for b, ids in enumerate(said) if len(ids) > t]  # those still being written at this step
        for b, scores in zip(rows, logits, strict=True):
            found[b].append(scores)
    return found


def verdicts(ids, log_probs, logits, tokenizer):
    """The log-odds of "yes" at each verdict of a critique, a list.  ids: its tokens; log_probs, logits: of each token.

    The critic writes the likeliest finding, of probability p, and then yes with probability v. Had it found the
    opposite, the verdict would be the opposite, too:  P(yes) = p v + (1 − p) (1 − v).
    """
    words = tokenizer.encode(" yes"), tokenizer.encode(" no")
    j = next(i for i, (one, other) in enumerate(zip(*words, strict=False)) if one != other)  # where they part
    yes, no, before = words[0][j], words[1][j], ", so" + tokenizer.decode(words[0][:j])
    found, first = [], 0
    for t, token in enumerate(ids):
        if token in (yes, no) and tokenizer.decode(ids[:t]).endswith(before):
            p = np.exp(sum(log_probs[first:t]))
            v = 1 / (1 + np.exp(np.clip(float(logits[t][no]) - float(logits[t][yes]), -30, 30)))
            sure = np.clip(p * v + (1 - p) * (1 - v), 1e-9, 1 - 1e-9)
            found.append(float(np.log(sure / (1 - sure))))
            first = t + 1
    return found


# ── does it read? ────────────────────────────────────────────────────────────────────────────────────────────────────


def reading_cases(world, n, split, kinds, seed, k=4):
    """n of (task, principle, [response]): k different responses each, of which some fit and some do not."""
    rng, found = SeededRandom(f"cases/{world.seed}/{split}/{','.join(kinds)}/{seed}"), []
    for i, task in enumerate(requests(world, "train", n, seed)):
        principle = draw_principle(split, kinds[i % len(kinds)], rng)
        topics = [topic for *_, topic in principle.meaning if topic]
        drawn = []
        while len(set(drawn)) < k or len({principle.degree(task, said) for said in drawn}) < 2:
            choices = options(world, task, topics[0] if topics else "", rng)
            parts = draw_parts(choices, rng)
            better = revise(parts, principle, task, choices, rng) if rng.chance(0.5) else parts
            drawn = (list(dict.fromkeys([*drawn, (better or parts).text])))[-k:]
        found.append((task, principle, drawn))
    return found


def turned(principle):
    """The text of the opposite principle: "prefer" for "avoid", "choose" for "never choose", and back."""
    for sign, leads in LEADS.items():
        for lead, opposite in zip(leads, LEADS[-sign], strict=True):
            if principle.text.startswith(lead + " "):
                return principle.text.replace(lead, opposite, 1)
    raise ValueError(f"{principle.text!r} begins like no principle of the lessons.")


def measure_reading(critic, tokenizer, some, seed=0):
    """Of held-out cases: the share of comparisons that are right ("accuracy", with a 95% "interval" by cases); the same
    with every principle turned round ("turned": now the other response is the right one); and with another case's
    principle in the place of the right one ("shuffled", which should be near a half, for there is nothing to know)."""
    others = SeededRandom(f"shuffled/{seed}").shuffled([principle.text for _, principle, _ in some])
    texts = {
        "accuracy": [principle.text for _, principle, _ in some],
        "turned": [turned(principle) for _, principle, _ in some],
        "shuffled": others,
    }
    tasks = [task for task, _, said in some for _ in said]
    responses = [response for *_, said in some for response in said]
    degrees = [[principle.degree(task, response) for response in said] for task, principle, said in some]
    found = {}
    for name, chosen in texts.items():
        repeated = [text for text, (*_, said) in zip(chosen, some, strict=True) for _ in said]
        values, first, shares = fits(critic, tokenizer, tasks, responses, repeated, clamp=np.inf), 0, []
        for truth in degrees:
            shares.append(right(values[first : first + len(truth)] * (-1 if name == "turned" else 1), truth))
            first += len(truth)
        found[name] = float(np.mean(shares))
        if name == "accuracy":
            found |= {"interval": bootstrap_interval(shares, seed), "cases": len(some)}
    return found


def right(values, degrees):
    """Of all pairs of responses that fit a principle unequally, the share in which the values say which fits better;
    equal values are half right."""
    pairs = [(a, b) for a, b in combinations(range(len(degrees)), 2) if degrees[a] != degrees[b]]
    agreed = [np.sign(values[a] - values[b]) * np.sign(degrees[a] - degrees[b]) for a, b in pairs]
    return float(np.mean([(one + 1) / 2 for one in agreed]))


# ── its preferences ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Feedback:
    """Stands in the labeller's place for one request.  fit: {response: number}, how well each fits the constitution."""

    fit: dict

    def probability(self, task, a, b):
        """The probability that response a is preferred to response b: 1 or 0, a half where they fit equally well."""
        gap = self.fit[a] - self.fit[b]
        return 0.5 if abs(gap) < MARGIN else float(gap > 0)


def fits_all(critic, tokenizer, tasks, responses, constitution):
    """How well each response fits a whole constitution (texts), by the critic: (N,), the sum of what `fits` finds.

    The paper draws one principle for each comparison. Then a response that gives no reason loses only where the one
    principle in so many that asks for a reason is drawn, and a model as small as ours learns to leave it out: its
    answers are few and dear, but to have each of them read by every principle costs little.
    """
    return sum(fits(critic, tokenizer, tasks, responses, [text] * len(tasks)) for text in constitution)  # (N,)


def compare(policy, tokenizer, judge, critic, constitution, tasks, k, seed, max_new_tokens=48):
    """k responses of the policy to each task, compared -> [Ranking].  Of requests to be refused the critic compares
    them, by the constitution; of plain tasks the simulated labeller."""
    repeated = [task for task in tasks for _ in range(k)]
    rollouts = roll_out_many(policy, tokenizer, repeated, max_new_tokens, mg.Generator(seed))
    texts, rng = rollouts.texts(tokenizer), SeededRandom(f"feedback/{seed}")
    concerned = [i for i, task in enumerate(repeated) if task.family in REQUESTS]
    read = [repeated[i] for i in concerned], [texts[i] for i in concerned]
    fit = dict(zip(concerned, fits_all(critic, tokenizer, *read, constitution), strict=True))
    rankings = []
    for i, task in enumerate(tasks):
        mine = range(i * k, (i + 1) * k)
        labeller = Feedback({texts[j]: fit[j] for j in mine}) if task.family in REQUESTS else judge
        responses, said = [rollouts.responses[j] for j in mine], [texts[j] for j in mine]
        rankings.append(decided(rank_responses(labeller, task, rollouts.prompts[i * k], responses, said, rng)))
    return [ranking for ranking in rankings if ranking is not None]


def decided(ranking):
    """The ranking without the comparisons that were a toss of a coin, None where nothing is left: "both fit" is no
    preference to learn from."""
    if ranking is None:
        return None
    both = [(pair, p) for pair, p in zip(ranking.pairs, ranking.probabilities, strict=True) if p != 0.5]
    return replace(ranking, pairs=[pair for pair, _ in both], probabilities=[p for _, p in both]) if both else None
