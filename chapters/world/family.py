"""What a task is (Instruction), and what all families of tasks share (Family)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Instruction:
    """One task: what is asked (with Alpaca's `input` or an empty one), one good response, its family and its key."""

    instruction: str
    input: str
    output: str
    family: str
    key: str


class Family:
    """What all families share. `asks` are the phrasings, filled in by `draw`; `trained` is False for the families that
    instruction tuning never sees."""

    name = ""
    trained = True
    asks = []

    def draw(self, facts, split, dice):
        """One Instruction. split: "train", "test" (entities never trained on) or "test_families" (any entity)."""
        raise NotImplementedError

    def accepts(self, facts, key, response):
        """Will this response do for the instance named by key?"""
        raise NotImplementedError

    def made(self, ask, output, key, given=""):
        return Instruction(ask, given, output, self.name, key)

    def entity(self, facts, kind, split, dice):
        sides = ["train", "test"] if split == "test_families" else [split]
        return dice.pick([entity for side in sides for entity in facts.entities(kind, side)])
