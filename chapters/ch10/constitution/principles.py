"""Chapter 10, the constitution: principles in words, and what they say about a response.

    python -m chapters.ch10.constitution.principles   # a few principles, each with a draft, a critique and a revision

A principle is a sentence, and a constitution is a text file of them that anybody can read and edit:

    Avoid the response that is rude.
    Prefer the response that gives a reason, not one that says sorry.

The paper's model understands any wording. A model as small as ours first has to learn a small language, and this file defines
it. A principle names one or two of ten qualities, each of which has several wordings. It prefers or avoids each quality, and
one quality ("speaks of …") takes any food or thing of the world. The lessons teach both directions alike: principles that avoid
help are as frequent as principles that prefer it. So the lessons teach a model to read, and only the constitution says what is
good.

Source: Bai et al. 2022 (arXiv:2212.08073), sections 3 and 4; the paper's principles are in appendix C.
"""

import argparse
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypeAlias

from chapters.world import Instruction, World
from chapters.world.facts import FOODS, THINGS, SeededRandom, is_held_out
from chapters.world.judge import COURTEOUS, RUDE, conduct, says_why
from chapters.world.reading import words
from chapters.world.requests import COURTESIES, EVASIONS, RAMBLINGS, REQUESTS, RUDENESSES, requests
from kernels.terminal import guard_streams

Texts: TypeAlias = Sequence[str]

DEFAULT = Path(__file__).with_name("constitution.txt")
LONGEST = 24  # words in a principle; every principle in the lessons has fewer
SHORT = 21  # words: enough for a refusal with a reason and a courtesy, too few for a rambling response
TOPICS = [*FOODS, *THINGS]
TEST_TOPICS = SeededRandom("topics").sample(TOPICS, 10)  # nouns that no principle in training names


# ── qualities ────────────────────────────────────────────────────────────────────────────────────────────────────────


Test: TypeAlias = Callable[[Instruction, str, str], bool]  # (task, response, topic) -> does the response have the quality?


@dataclass(frozen=True)
class Quality:
    """A property that a response has or lacks.

    `wordings` complete "the response that …". A critique says `present` or `absent`. A principle names at most one quality of
    each `group`, because two of them might contradict each other.
    """

    name: str
    group: str
    holds: Test
    wordings: tuple[str, ...]
    present: str
    absent: str


def _has_word(vocabulary: Collection[str]) -> Test:
    return lambda task, response, topic: bool(set(words(response)) & set(vocabulary))


def _conduct_is(name: str) -> Test:
    return lambda task, response, topic: conduct(task, response) == name


TESTS: dict[str, Test] = {
    "helps": _conduct_is("obeyed"),
    "refuses": _conduct_is("refused"),
    "reasons": lambda task, response, topic: says_why(None, task, response) > 0,
    "evades": _conduct_is("evaded"),
    "polite": _has_word(COURTEOUS),
    "rude": _has_word(RUDE),
    "sorry": _has_word(["sorry"]),
    "short": lambda task, response, topic: len(words(response)) <= SHORT,
    "offers": lambda task, response, topic: "can tell you" in response.lower(),
    "speaks": lambda task, response, topic: topic in words(response),
}

QUALITIES_TABLE = """
helps   | conduct | helps with it; does what is asked; tells how to do it      | it helps            | it does not help
refuses | conduct | says no; will not help; refuses to help                    | it says no          | it does not say no
reasons | conduct | says why not; gives a reason; has a reason                 | it says why         | it does not say why
evades  | conduct | says nothing; looks away; talks of nothing                 | it says nothing     | it says something
polite  | tone    | is polite; is friendly; has good words                     | it is polite        | it is not polite
rude    | tone    | is rude; is unkind; has bad words                          | it is rude          | it is not rude
sorry   | tone    | says sorry; is sorry; begins with sorry                    | it says sorry       | it does not say sorry
short   | length  | is short; has few words; ends soon                         | it is short         | it is not short
offers  | extra   | offers something else; offers to tell more; offers a story | it offers something | it offers nothing
speaks | extra | speaks of {topic}; tells about {topic}; names the {topic} | it speaks of {topic} | it does not speak of {topic}
"""  # name | group | wordings | critique of a response with the quality | critique of a response without it


def _read_quality(line: str) -> Quality:
    name, group, wordings, present, absent = (part.strip() for part in line.split("|"))
    return Quality(name, group, TESTS[name], tuple(wordings.split("; ")), present, absent)


QUALITIES = {quality.name: quality for quality in map(_read_quality, QUALITIES_TABLE.strip().splitlines())}


# ── principles ───────────────────────────────────────────────────────────────────────────────────────────────────────

WORDINGS = {  # {wording: (quality's name, topic or "")}
    wording.format(topic=topic): (quality.name, topic)
    for quality in QUALITIES.values()
    for wording in quality.wordings
    for topic in (TOPICS if "{topic}" in wording else [""])
}
LEADS = {  # the beginnings of a principle: +1 prefers, −1 avoids
    1: ("Prefer the response that", "Choose the response that", "A good response is one that"),
    -1: ("Avoid the response that", "Never choose the response that", "A bad response is one that"),
}
CONTRAST = ", not one that "  # joins two clauses of opposite direction; "and" joins two of the same


class Clause(NamedTuple):
    """One quality that a principle prefers (+1) or avoids (−1); topic is "" for all qualities but "speaks"."""

    sign: int
    quality: str
    topic: str


@dataclass(frozen=True)
class Principle:
    """A sentence and its meaning."""

    text: str
    meaning: tuple[Clause, ...]

    @property
    def topic(self) -> str:
        """The topic that a clause names, "" if none does."""
        return next((clause.topic for clause in self.meaning if clause.topic), "")

    def degree(self, task: Instruction, response: str) -> int:
        """Clauses that the response follows, minus clauses that it breaks.

        The response with the higher degree fits better.
        """
        return sum(sign if QUALITIES[name].holds(task, response, topic) else -sign for sign, name, topic in self.meaning)

    def fits(self, task: Instruction, response: str) -> bool:
        return self.degree(task, response) == len(self.meaning)

    def critique(self, task: Instruction, response: str) -> str:
        """The right critique of the response, clause by clause: "It is rude. It should not be, so no." """
        sentences = []
        for sign, name, topic in self.meaning:
            quality = QUALITIES[name]
            has = quality.holds(task, response, topic)
            fact = (quality.present if has else quality.absent).format(topic=topic).capitalize()
            should = ("should" if sign > 0 else "should not") + (" be" if fact.startswith("It is") else "")
            sentences.append(f"{fact}. It {should}, so {'yes' if has == (sign > 0) else 'no'}.")
        return " ".join(sentences)


KINDS = ("one", "pair", "word")  # one quality, two qualities, or "speaks of …" alone


def draw_principle(split: str, kind: str, rng: SeededRandom) -> Principle:
    """A principle of one of the KINDS on one side of the split.

    The "test" side has some sentences with one quality, some pairs of qualities with their directions, and some nouns. Training
    never sees them: a pair is held out in every wording, and no training pair begins with a held-out sentence.
    """

    def wording(name):
        return rng.pick(QUALITIES[name].wordings).format(topic=topic)

    topics = [topic for topic in TOPICS if (topic in TEST_TOPICS) == (split == "test" and kind == "word")]
    while True:
        sign, topic = rng.pick([1, -1]), rng.pick(topics)
        names = rng.sample([name for name in QUALITIES if name != "speaks"], 1)
        if kind == "word":
            names = ["speaks"]
        elif kind == "pair":
            names = rng.sample(list(QUALITIES), 2)
        signs = [sign] * len(names)
        first = text = f"{rng.pick(LEADS[sign])} {wording(names[0])}"
        if kind == "pair" and rng.chance(0.5):
            signs[1] = -sign
            text += f"{CONTRAST}{wording(names[1])}"
        elif kind == "pair":
            text += f" and {wording(names[1])}"
        meaning = tuple(Clause(s, n, topic if n == "speaks" else "") for s, n in zip(signs, names, strict=True))
        if len({QUALITIES[name].group for name in names}) < len(names):
            continue  # two qualities of a group may contradict each other
        if split == "train" and kind == "pair" and names[0] != "speaks" and is_held_out(first):
            continue
        if kind == "word" or is_held_out(pair_key(meaning) if kind == "pair" else text) == (split == "test"):
            return Principle(text + ".", meaning)


def pair_key(meaning: tuple[Clause, ...]) -> str:
    """A pair's qualities and directions, without its wording, order and topic."""
    return " & ".join(sorted(f"{sign:+}{name}" for sign, name, _ in meaning))


def draw_principles(n: int, split: str, seed: int) -> list[Principle]:
    """n shuffled principles from one side of the split: three in five of the kind "one", the others pairs and words."""
    rng = SeededRandom(f"principles/{split}/{seed}")
    turn = ("one", "one", *KINDS)
    return rng.shuffled([draw_principle(split, turn[i % len(turn)], rng) for i in range(n)])


# ── responses, and the nearest revision ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Parts:
    """A response to a harmful request, in parts that a revision can change one by one."""

    core: str  # help, refusal or evasion
    sorry: str = ""
    manner: str = ""
    offer: str = ""
    rambles: str = ""

    @property
    def text(self) -> str:
        return " ".join(filter(None, (self.sorry, self.manner, self.core, self.offer, self.rambles)))


Choices: TypeAlias = dict[str, list[str]]  # {part: every text that it may have}


def part_choices(world: World, task: Instruction, topic: str, rng: SeededRandom) -> Choices:
    """The possible texts of each part of a response to a request.  Offers name `topic`, unless it is "", and a random topic."""
    refusal = task.output.split(",")[0] + "."
    offers = [f"I can tell you about {noun}." for noun in (topic, rng.pick(TOPICS)) if noun]
    return {
        "core": [REQUESTS[task.family].obedience(world.facts, task.key), refusal, task.output, rng.pick(EVASIONS)],
        "sorry": ["", "Sorry."],
        "manner": ["", rng.pick(COURTESIES), rng.pick(RUDENESSES)],
        "offer": ["", *offers],
        "rambles": ["", rng.pick(RAMBLINGS)],
    }


def draw_parts(choices: Choices, rng: SeededRandom) -> Parts:
    """A random response: a core, and each other part with a probability of at most a half."""
    rates = {"sorry": 0.25, "manner": 0.5, "offer": 0.3, "rambles": 0.15}
    extras = {part: rng.pick(choices[part][1:]) if rng.chance(p) else "" for part, p in rates.items()}
    return Parts(rng.pick(choices["core"]), **extras)


def revise(parts: Parts, principle: Principle, task: Instruction, choices: Choices, rng: SeededRandom) -> Parts | None:
    """The response that fits the principle and changes the fewest parts, two at most; None if no such response exists.

    `rng` draws among equally near responses, so chance decides whatever the principle leaves open.
    """
    if principle.fits(task, parts.text):
        return parts
    changes = [(f.name, text) for f in fields(parts) for text in choices[f.name] if text != getattr(parts, f.name)]
    singles = [(change,) for change in changes]
    pairs = [pair for pair in combinations(changes, 2) if pair[0][0] != pair[1][0]]
    for candidates in (singles, pairs):
        for candidate in rng.shuffled(candidates):
            revised = replace(parts, **dict(candidate))
            if principle.fits(task, revised.text):
                return revised
    return None


# ── reading a constitution ───────────────────────────────────────────────────────────────────────────────────────────


def parse_principle(text: str) -> Principle | None:
    """The principle in a line of text, or None if it has a form that no lesson uses.

    >>> parse_principle("Avoid the response that is rude.").meaning
    (Clause(sign=-1, quality='rude', topic=''),)
    """
    for sign, leads in LEADS.items():
        for lead in leads:
            if text.startswith(lead + " ") and text.endswith("."):
                first, *rest = re.split(rf"{CONTRAST}| and (?!on\b)", text[len(lead) + 1 : -1])
                second_sign = -sign if CONTRAST in text else sign
                parts = [(first, sign), *((part, second_sign) for part in rest)]
                if len(parts) <= 2 and all(part in WORDINGS for part, _ in parts):
                    return Principle(text, tuple(Clause(sign, *WORDINGS[part]) for part, sign in parts))
    return None


def known_words() -> set[str]:
    """Every word that a principle may use: the words of the lessons and the nouns that a response may speak of."""
    texts = [lead for leads in LEADS.values() for lead in leads]
    texts += [wording for quality in QUALITIES.values() for wording in quality.wordings]
    return {*words(" ".join(texts).replace("{topic}", "")), "and", "not", "one", "that", *TOPICS}


def read_constitution(path: str | Path = DEFAULT) -> list[str]:
    """The principles in a text file, one on each line, without empty lines and lines that begin with #.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not UTF-8 or has no principle, or if a line is too long, repeats an earlier line, or has a
            word that no lesson teaches.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"constitution: expected a text file, got no file {path}; write one principle a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, got another encoding at byte {error.start}; save as UTF-8") from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    numbered = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not numbered:
        raise ValueError(f"{path}: expected a principle, got none; write: Prefer the response that gives a reason.")
    vocabulary, seen = known_words(), dict[str, int]()
    for number, line in numbered:
        unknown = [word for word in re.findall(r"\w+", line.lower()) if word not in vocabulary]
        if unknown:
            raise ValueError(
                f"{path}, line {number}: expected words of the lessons, got {unknown[0][:40]!r}; use these: "
                f"{', '.join(sorted(vocabulary - set(TOPICS)))}; and these nouns: {', '.join(TOPICS)}"
            )
        if len(words(line)) > LONGEST or not words(line):
            raise ValueError(f"{path}, line {number}: expected 1 to {LONGEST} words, got {len(words(line))}; split the line")
        if line in seen:
            raise ValueError(f"{path}, line {number}: expected a new principle, got line {seen[line]} again; delete it")
        seen[line] = number
    return [line for _, line in numbered]


def main() -> None:
    world, rng = World(0), SeededRandom(0)
    for task, principle in zip(requests(world, "train", 8, 0), draw_principles(8, "train", 0), strict=True):
        choices = part_choices(world, task, principle.meaning[0].topic, rng)
        draft = draw_parts(choices, rng)
        revised = revise(draft, principle, task, choices, rng)
        print(
            f"Request:   {task.instruction}\nDraft:     {draft.text}\nPrinciple: {principle.text}\n"
            f"Critique:  {principle.critique(task, draft.text)}\nRevision:  {revised.text if revised else 'none fits'}\n"
        )
    for sign, leads in LEADS.items():
        print(f"A principle that {'prefers' if sign > 0 else 'avoids'} begins with: {'; '.join(leads)}")
    for quality in QUALITIES.values():
        print(f"wordings of {quality.name:<8} {'; '.join(quality.wordings)}")
    print(f"{{topic}} is one of: {', '.join(TOPICS)}\n'and' or ', not one that' joins two qualities.")


if __name__ == "__main__":
    guard_streams()
    argparse.ArgumentParser(
        prog="python -m chapters.ch10.constitution.principles",
        description="Print eight principles, each with a draft, a critique and a revision, and every word that they may use.",
    ).parse_args()
    main()
