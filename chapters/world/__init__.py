"""The little world: the project's own data, generated from a seed, with sentences written for it.

It has eighty people, twelve towns, twelve trades, foods with prices, things and dishes; `facts` holds them.

- `documents` and `questions` write the pages for pretraining.
- `families` makes instructions, with a rule for each family that accepts or rejects a response.
- `snippets` cuts texts off for a classifier.
- `requests` makes requests that should be refused.
- `judge` simulates a labeller.

    python -m chapters.world        # a sample of everything

The world is small on purpose: a model with a quarter of a million parameters learns all of it in two minutes. We can then
measure what pretraining and each fine-tuning change.
"""

from collections.abc import Collection, Iterable

from chapters.world import documents, questions
from chapters.world.facts import Facts, SeededRandom
from chapters.world.families import FAMILIES
from chapters.world.family import Instruction
from chapters.world.reading import asks_a_question
from chapters.world.snippets import LABELS, snippet

__all__ = ["DOCUMENT_KINDS", "FAMILIES", "LABELS", "Instruction", "World", "asks_a_question"]

DOCUMENT_KINDS = {kind.__name__: (kind, share) for kind, share in {**documents.SHARES, **questions.SHARES}.items()}
SPLITS = ("train", "test", "test_families")


class World:
    """A little world. Its seed decides the facts; the seed of each method decides which texts tell them.

    A fifth of the people, towns, trades, foods, dishes, things, sums, pairs, lists and sentences are the test side, which
    training never asks about. Training also never uses the families in `test_families`.

    >>> world = World(0)
    >>> task = world.instructions("train", n=1, seed=0, families=["town"])[0]
    >>> task.instruction, task.output
    ('Tell me where Oren lives.', 'These days Oren lives in Lorn.')
    >>> world.accepts(task, "In Lorn."), world.accepts(task, "In Wick.")
    (True, False)
    """

    def __init__(self, seed: int = 0):
        self.facts = Facts(seed)
        self.seed = seed
        self.families = [name for name, family in FAMILIES.items() if family.trained]
        self.test_families = [name for name, family in FAMILIES.items() if not family.trained]

    def documents(self, n_bytes: int, seed: int = 0) -> list[str]:
        """Documents of all kinds, mixed, at least n_bytes bytes of UTF-8 together."""
        check_count("documents", "n_bytes", n_bytes)
        rng = SeededRandom(f"documents/{self.seed}/{seed}")
        deck = [kind for kind, share in DOCUMENT_KINDS.values() for _ in range(share)]
        pages: list[str] = []
        size = 0
        while size < n_bytes:
            page = rng.pick(deck)(self.facts, rng)
            pages.append(page)
            size += len(page.encode())
        return pages

    def document(self, kind: str, seed: int = 0) -> str:
        """A document of a kind in DOCUMENT_KINDS."""
        if kind not in DOCUMENT_KINDS:
            raise ValueError(f"document: expected a kind among {', '.join(DOCUMENT_KINDS)}, got {kind!r}")
        return DOCUMENT_KINDS[kind][0](self.facts, SeededRandom(f"document/{self.seed}/{seed}"))

    def instructions(
        self, split: str = "train", n: int = 1000, seed: int = 0, families: Iterable[str] | None = None
    ) -> list[Instruction]:
        """Draw n instructions, from each family in turn, and shuffle them.

        Args:
            split: "train"; "test" for the same families with entities that training never asks about; or "test_families" for
                families that training never uses. The test splits repeat a question only if 50 draws give no new question.
            n: number of instructions.
            seed: random seed.
            families: names of families of this split; all of them if None.
        """
        check_split("instructions", split, SPLITS)
        check_count("instructions", "n", n)
        available = self.test_families if split == "test_families" else self.families
        names = check_families("instructions", families, available)
        rng = SeededRandom(f"instructions/{self.seed}/{split}/{seed}")
        tasks: list[Instruction] = []
        asked = set()
        for i in range(n):
            family = FAMILIES[names[i % len(names)]]
            for _ in range(1 if split == "train" else 50):  # attempts to draw a new question
                task = family.draw(self.facts, split, rng)
                if (task.instruction, task.input) not in asked:
                    break
            asked.add((task.instruction, task.input))
            tasks.append(task)
        return rng.shuffled(tasks)

    def accepts(self, instruction: Instruction, response: str) -> bool:
        """Whether the response does what the instruction asks, by the rule of the instruction's family."""
        return FAMILIES[instruction.family].accepts(self.facts, instruction.key, response)

    def snippets(self, split: str = "train", n: int = 1000, seed: int = 0) -> list[tuple[str, int]]:
        """n (text, label) pairs, shuffled, with the three LABELS equally often. The two splits share no text."""
        check_split("snippets", split, SPLITS[:2])
        check_count("snippets", "n", n)
        rng = SeededRandom(f"snippets/{self.seed}/{split}/{seed}")
        return rng.shuffled([snippet(self.facts, split, i % len(LABELS), rng) for i in range(n)])


def check_split(operation: str, split: str, splits: Collection[str]) -> None:
    if split not in splits:
        raise ValueError(f"{operation}: expected a split among {', '.join(splits)}, got {split!r}")


def check_count(operation: str, name: str, count: int) -> None:
    if not isinstance(count, int) or count < 0:
        raise ValueError(f"{operation}: expected a whole number of at least 0 as {name}, got {count!r}")


def check_families(operation: str, families: Iterable[str] | None, available: Collection[str]) -> list[str]:
    """The names of the families to draw from: all that are available if `families` is None."""
    names = list(available if families is None else families)
    unknown = [name for name in names if name not in available]
    if unknown or not names:
        raise ValueError(f"{operation}: expected families among {', '.join(available)}, got {unknown}")
    return names
