"""Chapter 10, the constitution: principles in words, and what they say of a response.

    python -m chapters.ch10.constitution.principles   # a few principles, with a draft, its critique, its revision

What this file teaches: a principle is a sentence, and a constitution a text file of such sentences that anybody can
read and edit. A model of a million parameters cannot be asked in any words we like, as the model of the paper could be;
it is taught a small language first: ten qualities that a response may have, each in several wordings, to be
preferred or avoided, alone or in pairs, and one of them (what a response speaks of) open to any noun of the world. Both
directions of every quality are taught alike, "avoid the response that helps" as often as "prefer" it: from these
lessons a model learns to read, and what is good stands in the file alone.
Source: Bai et al. 2022 (arXiv:2212.08073), sections 3 and 4, where the principles are in appendix C.
"""

import re
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path

from chapters.world.facts import FOODS, THINGS, SeededRandom, is_held_out
from chapters.world.judge import COURTEOUS, RUDE, conduct, says_why
from chapters.world.reading import words
from chapters.world.requests import COURTESIES, EVASIONS, RAMBLINGS, REQUESTS, RUDENESSES

DEFAULT = Path(__file__).with_name("constitution.txt")
LONGEST = 24  # words of a principle; the longest of the lessons has fewer
SHORT = 21  # words: a refusal, its reason and a courtesy fit; whatever rambles does not
TOPICS = [*FOODS, *THINGS]
TEST_TOPICS = SeededRandom("topics").some(TOPICS, 10)  # no principle that is trained on names one of these


# ── qualities ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Quality:
    """Something that a response has or has not. `wordings` complete "the response that …"; `says` and `denies` are how
    a critique puts it; of each `group` a principle names at most one, since two might contradict each other."""

    name: str
    group: str
    wordings: tuple
    says: str
    denies: str
    holds: object  # (task, response, topic) -> bool

    def state(self, has):
        return self.says if has else self.denies


def _has(vocabulary):
    return lambda task, response, topic: bool(set(words(response)) & set(vocabulary))


QUALITIES = {quality.name: quality for quality in (
    Quality("helps", "conduct", ("helps with it", "does what is asked", "tells how to do it"),
            "it helps", "it does not help", lambda task, said, topic: conduct(task, said) == "obeyed"),
    Quality("refuses", "conduct", ("says no", "will not help", "refuses to help"),
            "it says no", "it does not say no", lambda task, said, topic: conduct(task, said) == "refused"),
    Quality("reasons", "conduct", ("says why not", "gives a reason", "has a reason"),
            "it says why", "it does not say why", lambda task, said, topic: says_why(None, task, said) > 0),
    Quality("evades", "conduct", ("says nothing", "looks away", "talks of nothing"),
            "it says nothing", "it says something", lambda task, said, topic: conduct(task, said) == "evaded"),
    Quality("polite", "tone", ("is polite", "is friendly", "has good words"),
            "it is polite", "it is not polite", _has(COURTEOUS)),
    Quality("rude", "tone", ("is rude", "is unkind", "has bad words"),
            "it is rude", "it is not rude", _has(RUDE)),
    Quality("sorry", "tone", ("says sorry", "is sorry", "begins with sorry"),
            "it says sorry", "it does not say sorry", _has(["sorry"])),
    Quality("short", "length", ("is short", "has few words", "ends soon"),
            "it is short", "it is not short", lambda task, said, topic: len(words(said)) <= SHORT),
    Quality("offers", "extra", ("offers something else", "offers to tell more", "offers a story"),
            "it offers something", "it offers nothing", lambda task, said, topic: "can tell you" in said.lower()),
    Quality("speaks", "extra", ("speaks of {topic}", "tells about {topic}", "names the {topic}"),
            "it speaks of {topic}", "it does not speak of {topic}",
            lambda task, said, topic: topic in words(said)),
)}  # fmt: skip


# ── principles ───────────────────────────────────────────────────────────────────────────────────────────────────────

LEADS = {  # how a principle begins: +1 prefers, −1 avoids
    1: ("Prefer the response that", "Choose the response that", "A good response is one that"),
    -1: ("Avoid the response that", "Never choose the response that", "A bad response is one that"),
}


@dataclass(frozen=True)
class Principle:
    """A sentence, and for those that are drawn here what it means: ((sign, quality's name, topic or ""), …)."""

    text: str
    meaning: tuple

    def degree(self, task, response):
        """By how many of its clauses the response fits the principle, less those by which it does not: a whole number.
        Of two responses the one of the higher degree fits better; of equal ones neither does."""
        return sum(sign if QUALITIES[name].holds(task, response, topic) else -sign
                   for sign, name, topic in self.meaning)  # fmt: skip

    def fits(self, task, response):
        return self.degree(task, response) == len(self.meaning)

    def critique(self, task, response):
        """What ought to be said of the response, for each clause: "It is rude. It should not be, so no." """
        said = []
        for sign, name, topic in self.meaning:
            has = QUALITIES[name].holds(task, response, topic)
            fact = QUALITIES[name].state(has).format(topic=topic).capitalize()
            should = ("should" if sign > 0 else "should not") + (" be" if fact.startswith("It is") else "")
            said.append(f"{fact}. It {should}, so {'yes' if has == (sign > 0) else 'no'}.")
        return " ".join(said)


def clause(name, topic, rng):
    """One wording of a quality."""
    return rng.pick(QUALITIES[name].wordings).format(topic=topic)


def draw_principle(split, kind, rng):
    """A Principle of one kind on one side of the split: "one" quality, a "pair", or the "word" a response speaks of.

    Held out ("test") are whole sentences of one quality, which begin no pair that is trained on either; whole pairs of
    qualities with their directions, in all their wordings; and words.
    """
    topics = [topic for topic in TOPICS if (topic in TEST_TOPICS) == (split == "test" and kind == "word")]
    while True:
        sign, topic = rng.pick([1, -1]), rng.pick(topics)
        names = rng.some([n for n in QUALITIES if n != "speaks"], 1)
        if kind == "word":
            names = ["speaks"]
        elif kind == "pair":
            names = rng.some(list(QUALITIES), 2)
        signs = [sign] * len(names)
        first = text = f"{rng.pick(LEADS[sign])} {clause(names[0], topic, rng)}"
        if kind == "pair" and rng.chance(0.5):
            signs[1] = -sign
            text += f", not one that {clause(names[1], topic, rng)}"
        elif kind == "pair":
            text += f" and {clause(names[1], topic, rng)}"
        meaning = tuple((s, n, topic if n == "speaks" else "") for s, n in zip(signs, names, strict=True))
        if len({QUALITIES[name].group for name in names}) < len(names):
            continue  # two of a group may contradict each other
        if split == "train" and kind == "pair" and names[0] != "speaks" and is_held_out(first):
            continue
        if kind == "word" or is_held_out(pair_key(meaning) if kind == "pair" else text) == (split == "test"):
            return Principle(text + ".", meaning)


def pair_key(meaning):
    """What two clauses mean together, each with its direction, in whatever words and order and about whatever topic."""
    return " & ".join(sorted(f"{sign:+}{name}" for sign, name, _ in meaning))


KINDS = ("one", "pair", "word")


def principles(n, split, seed):
    """n Principles of one side of the split, of each kind in turn, mixed; most of them sentences of one quality."""
    rng = SeededRandom(f"principles/{split}/{seed}")
    turn = ("one", "one", *KINDS)
    return rng.shuffled([draw_principle(split, turn[i % len(turn)], rng) for i in range(n)])


# ── a constitution ───────────────────────────────────────────────────────────────────────────────────────────────────


def known_words():
    """Every word that a principle may be made of: those of the lessons, and the nouns that a response may speak of."""
    every = [lead for leads in LEADS.values() for lead in leads]
    every += [wording for quality in QUALITIES.values() for wording in quality.wordings]
    return sorted({*words(" ".join(every).replace("{topic}", "")), "and", "not", "one", "that", *TOPICS})


def read_constitution(path=DEFAULT):
    """A text file, one principle a line; empty lines and lines that begin with # are passed over.  Returns [str].

    Raises FileNotFoundError, or ValueError in one sentence: not UTF-8, no principle, the same one twice, a line that is
    too long, or one with a word that the models were never taught.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no constitution {path}; give a text file with one principle a line.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    numbered = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not numbered:
        raise ValueError(f"{path} holds no principle; write one a line: Prefer the response that gives a reason.")
    known, seen = set(known_words()), {}
    for number, line in numbered:
        strange = [word for word in re.findall(r"\w+", line.lower()) if word not in known]
        if strange:
            raise ValueError(
                f"{path}, line {number}: no model here was ever taught the word {strange[0]!r}; a principle is made of "
                f"these: {', '.join(sorted(known - set(TOPICS)))}; and of things such as {', '.join(TOPICS)}."
            )
        if len(words(line)) > LONGEST or not words(line):
            raise ValueError(f"{path}, line {number}: a principle has 1 to {LONGEST} words, not {len(words(line))}.")
        if line in seen:
            raise ValueError(f"{path}, line {number}: the same principle stands in line {seen[line]}; leave one out.")
        seen[line] = number
    return [line for _, line in numbered]


def parse_principle(text):
    """The Principle that a line of a constitution is, where the lessons might have drawn it; else None."""
    for sign, leads in LEADS.items():
        for lead in leads:
            if text.startswith(lead + " ") and text.endswith("."):
                first, *rest = re.split(r", not one that | and (?!on\b)", text[len(lead) + 1 : -1])
                signs = [sign, -sign if ", not one that " in text else sign]
                clauses = [meant(part) for part in (first, *rest)]
                if len(clauses) <= 2 and all(clauses):
                    return Principle(text, tuple((s, *c) for s, c in zip(signs, clauses, strict=False)))
    return None


def meant(part):
    """(quality's name, topic or "") of a clause, None where it is none of the lessons'."""
    for quality in QUALITIES.values():
        for wording in quality.wordings:
            if part == wording:
                return quality.name, ""
            for topic in TOPICS if "{topic}" in wording else ():
                if part == wording.format(topic=topic):
                    return quality.name, topic
    return None


# ── responses to learn from ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Parts:
    """A response to a request to be refused, in parts, so that it can be revised part by part."""

    core: str  # what is said in the matter
    sorry: str = ""
    manner: str = ""
    offer: str = ""
    rambles: str = ""

    @property
    def text(self):
        return " ".join(filter(None, (self.sorry, self.manner, self.core, self.offer, self.rambles)))


def options(world, task, topic, rng):
    """{part: every text that it may have}; an offer is about the given topic or about another."""
    request = REQUESTS[task.family]
    refusal = task.output.split(",")[0] + "."
    offers = [f"I can tell you about {about}." for about in (topic, rng.pick(TOPICS)) if about]
    return {
        "core": [request.obedience(world.facts, task.key), refusal, task.output, rng.pick(EVASIONS)],
        "sorry": ["", "Sorry."],
        "manner": ["", rng.pick(COURTESIES), rng.pick(RUDENESSES)],
        "offer": ["", *offers],
        "rambles": ["", rng.pick(RAMBLINGS)],
    }


def draw_parts(choices, rng):
    """A response with a core and each other part half of the time at most: few responses are all at once."""
    rare = {"sorry": 0.25, "manner": 0.5, "offer": 0.3, "rambles": 0.15}
    chosen = {part: rng.pick(choices[part][1:]) if rng.chance(p) else "" for part, p in rare.items()}
    return Parts(rng.pick(choices["core"]), **chosen)


def revise(parts, principle, task, choices, rng):
    """The nearest response that fits the principle: itself, or one part changed, or two; None where none does.

    Of equally near ones one is drawn: what a principle leaves open, a revision leaves to chance.
    """
    if principle.fits(task, parts.text):
        return parts
    changes = [(field.name, text) for field in fields(parts) for text in choices[field.name]
               if text != getattr(parts, field.name)]  # fmt: skip
    pairs = [pair for pair in combinations(changes, 2) if pair[0][0] != pair[1][0]]
    for some in ([(change,) for change in changes], pairs):
        for change in rng.shuffled(some):
            revised = replace(parts, **dict(change))
            if principle.fits(task, revised.text):
                return revised
    return None


def main():
    from chapters.world import World
    from chapters.world.requests import requests

    world, rng = World(0), SeededRandom(0)
    for task, principle in zip(requests(world, "train", 8, 0), principles(8, "train", 0), strict=True):
        choices = options(world, task, principle.meaning[0][2], rng)
        draft = draw_parts(choices, rng)
        revised = revise(draft, principle, task, choices, rng)
        print(
            f"Request:   {task.instruction}\nDraft:     {draft.text}\nPrinciple: {principle.text}\n"
            f"Critique:  {principle.critique(task, draft.text)}\nRevision:  {revised and revised.text}\n"
        )
    for sign, leads in LEADS.items():
        print(f"A principle that {'prefers' if sign > 0 else 'avoids'} begins with: {'; '.join(leads)}")
    for quality in QUALITIES.values():
        print(f"{quality.name:<8} is put as: {'; '.join(quality.wordings)}")
    print(f"{{topic}} is one of: {', '.join(TOPICS)}\nTwo are joined by 'and', or by ', not one that'.")


if __name__ == "__main__":
    main()
