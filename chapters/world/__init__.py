"""The little world: the project's embedded data, generated from a seed, every sentence written for it.

Eighty people, twelve towns, twelve trades, foods with prices, things, dishes, and what is true of them (`facts`); plain
documents that tell it (`documents`, `questions`); instructions over the same world with a rule for each family that
says whether a response will do (`families`, `reading`); and cut-off texts to classify (`snippets`).

    python -m chapters.world        # a sample of everything

It is closed and small on purpose: a model of a million parameters can learn all of it in two minutes, so that what
pretraining gave and what each bend added can be measured rather than guessed.
"""

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
    """One little world. The seed decides its facts; each method's own seed decides what is said about them.

    The split: a fifth of the people, towns, trades, foods, dishes, things, sums, pairs, lists and sentences ("test") is
    never asked about in training; nor are the families in `test_families`, by anybody.
    """

    def __init__(self, seed=0):
        self.facts = Facts(seed)
        self.seed = seed
        self.families = [name for name, family in FAMILIES.items() if family.trained]
        self.test_families = [name for name, family in FAMILIES.items() if not family.trained]

    def documents(self, n_bytes, seed=0):
        """list[str]: documents of all kinds, mixed, until together they hold at least n_bytes bytes of UTF-8."""
        check_count("n_bytes", n_bytes)
        rng = SeededRandom(f"documents/{self.seed}/{seed}")
        deck = [kind for kind, share in DOCUMENT_KINDS.values() for _ in range(share)]
        pages, size = [], 0
        while size < n_bytes:
            page = rng.pick(deck)(self.facts, rng)
            pages.append(page)
            size += len(page.encode())
        return pages

    def document(self, kind, seed=0):
        """One document of the kind named, one of DOCUMENT_KINDS."""
        if kind not in DOCUMENT_KINDS:
            raise ValueError(f"there is no kind of document named {kind!r}; the kinds are {', '.join(DOCUMENT_KINDS)}.")
        return DOCUMENT_KINDS[kind][0](self.facts, SeededRandom(f"document/{self.seed}/{seed}"))

    def instructions(self, split="train", n=1000, seed=0, families=None):
        """list[Instruction] of length n, from each family in turn, mixed.

        split: "train"; "test": the same families, entities and instances never trained on; "test_families": families
        never trained on. families: only these names (of that split). In the two test splits no question comes twice
        while there are others left.
        """
        check_split(split, SPLITS)
        check_count("n", n)
        offered = self.test_families if split == "test_families" else self.families
        chosen = offered if families is None else list(families)
        unknown = [name for name in chosen if name not in offered]
        if unknown or not chosen:
            raise ValueError(f"families {unknown} are not among those of split {split!r}: {', '.join(offered)}.")
        rng = SeededRandom(f"instructions/{self.seed}/{split}/{seed}")
        drawn, asked = [], {}
        for i in range(n):
            family = FAMILIES[chosen[i % len(chosen)]]
            for _ in range(1 if split == "train" else 50):
                task = family.draw(self.facts, split, rng)
                if (task.instruction, task.input) not in asked:
                    break
            asked[task.instruction, task.input] = True
            drawn.append(task)
        return rng.shuffled(drawn)

    def accepts(self, instruction, response):
        """bool: does the response (str) do what the Instruction asks? The rule is its family's, in `families`."""
        return FAMILIES[instruction.family].accepts(self.facts, instruction.key, response)

    def snippets(self, split="train", n=1000, seed=0):
        """list[(text, label)] of length n, the three LABELS in turn, mixed. A text is on one side of the split only."""
        check_split(split, SPLITS[:2])
        check_count("n", n)
        rng = SeededRandom(f"snippets/{self.seed}/{split}/{seed}")
        return rng.shuffled([snippet(self.facts, split, i % len(LABELS), rng) for i in range(n)])


def check_split(split, splits):
    if split not in splits:
        raise ValueError(f"split is {split!r} but must be one of {', '.join(splits)}.")


def check_count(name, count):
    if not isinstance(count, int) or count < 0:
        raise ValueError(f"{name} is {count!r} but must be a whole number, 0 or more.")
