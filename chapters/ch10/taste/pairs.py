"""Real pairs: each instruction in the layout that the model was tuned on, and a split that learns nothing by heart.

Many instructions occur with several inputs ("Convert the sentence to passive voice."). All pairs with one instruction stay on
one side of the split, or a model could score well on the held-out pairs because it remembers what was asked.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from chapters.ch09.smollm2 import STOP, chat_ids
from chapters.ch10.comparisons import Ranking
from chapters.ch10.sft import task_prompt
from chapters.support.readers import ResponsePair
from chapters.world import Instruction


class Split(NamedTuple):
    """Three sets of pairs that share no instruction."""

    learning: list[ResponsePair]  # the reward model and DPO learn from these
    judging: list[ResponsePair]  # the judges learn from these
    held_out: list[ResponsePair]  # nothing learns from these


def split_by_instruction(pairs: Sequence[ResponsePair], held_out: int, seed: int) -> Split:
    """Hold out `held_out` pairs, at most a quarter, and halve the others.  Raises ValueError if a part gets fewer than two."""
    groups: dict[str, list[ResponsePair]] = {}
    for pair in pairs:
        groups.setdefault(pair.task.instruction, []).append(pair)
    split, wanted = Split([], [], []), min(held_out, len(pairs) // 4)
    for instruction in np.random.default_rng(seed).permutation(list(groups)):
        group = groups[str(instruction)]
        fits = len(split.held_out) + len(group) <= wanted
        (split.held_out if fits else min(split.learning, split.judging, key=len)).extend(group)
    if min(map(len, split)) < 2:
        raise ValueError(
            f"pairs: expected enough to split by instruction, got {len(pairs)} about {len(groups)} instructions; "
            "give at least 10 pairs about 10 instructions"
        )
    return split


# ── texts as tokens ──────────────────────────────────────────────────────────────────────────────────────────────────


def prompt_ids(tokenizer: Any, task: Instruction) -> list[int]:
    """The token ids of a task: as a turn of a conversation if the tokenizer marks turns, else in chapter 10's template.

    The system message before the turn is empty. SmolLM2's usual one has 17 tokens, which would be a third of all work.
    """
    if marks_turns(tokenizer):
        return chat_ids(tokenizer, [("user", f"{task.instruction}\n{task.input}".strip())], system="")
    return tokenizer.encode(task_prompt(task))


def end_id(tokenizer: Any) -> int:
    """The token that ends an answer."""
    return tokenizer.special_tokens[STOP] if marks_turns(tokenizer) else tokenizer.eos_id


def marks_turns(tokenizer: Any) -> bool:
    return STOP in getattr(tokenizer, "special_tokens", ())


def to_ranking(pair: ResponsePair, tokenizer: Any) -> Ranking:
    """A pair as two rows of token ids: prompt, answer and end token."""
    prompt, end = prompt_ids(tokenizer, pair.task), end_id(tokenizer)
    return Ranking([[*prompt, *tokenizer.encode(answer), end] for answer in (pair.chosen, pair.rejected)], [(0, 1)], [])


def fitting(pairs: Sequence[ResponsePair], tokenizer: Any, longest: int) -> list[int]:
    """The numbers of the pairs whose rows have at most `longest` tokens.  Raises ValueError if there are none."""
    lengths = [max(map(len, to_ranking(pair, tokenizer).rows)) for pair in pairs]
    if min(lengths) > longest:
        raise ValueError(
            f"pairs: expected some of at most {longest} tokens, got {len(pairs)} longer ones, the shortest of {min(lengths)}; "
            "give shorter texts, a larger --context, or a model with a longer context"
        )
    return [i for i, length in enumerate(lengths) if length <= longest]
