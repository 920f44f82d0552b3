"""The models that the server offers, how each of them reads a conversation, and the reward of an answer."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT
from chapters.ch09.load import form_of, load
from chapters.ch09.serve.scheduler import Batch
from chapters.ch10.reward import load_scalar
from chapters.ch10.sft import format_prompt
from chapters.chat import Conversation

READS = {
    "turns": "reads the whole conversation",
    "instruction": "reads each question alone, in chapter 10's template",
    "text": "continues the last message",
}


class ServedModel:
    """A model with its name, its batch, and the form in which it reads questions; see chapters/chat.py.

    Args:
        tuned_on: the form noted in the model's file, None if there is no note.
        size, room, int8: see `Batch`; room is at most the model's context.
    """

    def __init__(
        self, name: str, gpt: GPT, tokenizer: Tokenizer, tuned_on: str | None, size: int, room: int, int8: bool = False
    ) -> None:
        self.name, self.gpt, self.tokenizer, self.created = name, gpt, tokenizer, int(time.time())
        conversation = Conversation(tokenizer, "auto", tuned_on)
        self.form, self.stop_ids = conversation.form, conversation.stop_ids
        self.batch = Batch(gpt, tokenizer.pieces, size, min(room, gpt.config.context), int8)
        self.reward: Reward | None = None

    def conversation_ids(self, turns: Sequence[tuple[str, str]], system: str | None) -> list[int]:
        """The token ids that the model reads before it answers; `turns` are (role, text), the last from the user."""
        conversation = Conversation(self.tokenizer, self.form)
        conversation.turns = list(turns)
        if system is not None:
            conversation.system = system
        return conversation.layout()

    def describe(self) -> dict[str, Any]:
        """The model's entry in the endpoint's list."""
        extra = {
            "form": self.form,
            "context": self.batch.room,
            "parameters": self.gpt.num_parameters(),
            "reward": self.reward is not None,
            "stop_ids": sorted(self.stop_ids),
        }
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "minigrad", "minigrad": extra}


def load_served(name: str, size: int, room: int, int8: bool = False) -> ServedModel:
    """Load a model by the name that `chapters.ch09.load` takes, and compile its kernels."""
    gpt, tokenizer = load(name)
    model = ServedModel(name, gpt, tokenizer, form_of(name), size, room, int8)
    for _ in model.batch.free[0].decoder.write([tokenizer.eos_id], 2, temperature=0):
        pass
    return model


class Reward:
    """Chapter 10's reward model, for answers to an instruction."""

    def __init__(self, folder: str | Path) -> None:
        self.model, self.folder = load_scalar(folder), folder

    def fits(self, model: ServedModel) -> bool:
        """Whether it can judge this model's answers: both read chapter 10's template with equally many tokens."""
        return model.form == "instruction" and model.tokenizer.vocab_size == self.model.config.vocab_size

    def rows(self, tokenizer: Tokenizer, question: str, answer: str) -> tuple[list[int], list[int]]:
        """The token ids of the prompt, and of the answer with the end-of-text token.

        Raises ValueError if together they exceed the reward model's context.
        """
        prompt, response = tokenizer.encode(format_prompt(question)), [*tokenizer.encode(answer), tokenizer.eos_id]
        length, context = len(prompt) + len(response), self.model.config.context
        if length > context:
            raise ValueError(f"reward: expected a question and answer of at most {context} tokens, got {length}; shorten them")
        return prompt, response

    def score(self, tokenizer: Tokenizer, prompt: list[int], response: list[int]) -> dict[str, Any]:
        """The reward at the answer's last token, which counts, and at each of its tokens."""
        with mg.no_grad():
            rewards = self.model(mg.tensor([prompt + response])).numpy(force=True)[0, len(prompt) :].tolist()
        tokens = [piece.decode("utf-8", "replace") for piece in tokenizer.pieces(response)]
        by_token = [{"token": token, "reward": reward} for token, reward in zip(tokens, rewards, strict=True)]
        return {"object": "minigrad.reward", "reward": rewards[-1], "by_token": by_token}
