"""Chat with a model in the terminal, token by token.

    python -m chapters.chat --model smollm2
    python -m chapters.chat --model runs/main/sft --form instruction
    python -m chapters.chat --model gpt2 --form text          # continues your text

A token is a few bytes, and a character may need several tokens, so the terminal shows a character once it is complete.
"""

import codecs
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch09.decoder import Decoder
from chapters.ch09.load import load
from chapters.ch09.smollm2 import chat_ids
from chapters.support.command import OnDevice, command


class Conversation:
    """The turns so far, and the form in which the model reads them."""

    def __init__(self, tokenizer: Tokenizer, form: str) -> None:
        self.tokenizer = tokenizer
        self.turns: list[tuple[str, str]] = []
        marks_turns = "<|im_start|>" in getattr(tokenizer, "special_tokens", ())
        if form == "auto":
            form = "turns" if marks_turns else "text"
        if form == "turns" and not marks_turns:
            raise ValueError("--form turns: this model's tokenizer marks no turns; use --form text or --form instruction")
        self.form = form
        self.stop_ids = {tokenizer.eos_id}
        if form == "turns":
            self.stop_ids.add(tokenizer.special_tokens["<|im_end|>"])

    def ask(self, text: str) -> list[int]:
        """The token ids that the model reads before it answers."""
        if self.form == "turns":
            self.turns.append(("user", text))
            return chat_ids(self.tokenizer, self.turns)
        if self.form == "instruction":
            from chapters.ch10.sft import format_prompt

            return self.tokenizer.encode(format_prompt(text))
        return self.tokenizer.encode(text) or [self.tokenizer.eos_id]

    def answered(self, text: str) -> None:
        self.turns.append(("assistant", text))


def whole_characters(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Yield a stream of tokens as text, each character once it is complete; an incomplete last one becomes U+FFFD."""
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        text = utf8.decode(tokenizer.pieces([token])[0])
        if text:
            yield text
    rest = utf8.decode(b"", final=True)
    if rest:
        yield rest


@dataclass
class Settings(OnDevice):
    """Chat with a model. An empty line ends the conversation."""

    model: str = "smollm2"  # smollm2, a .gguf file, a published GPT-2, a folder of its files, or a run folder
    prompt: tuple[str, ...] = ()  # questions to ask one after the other, instead of typing
    form: Literal["auto", "turns", "instruction", "text"] = "auto"  # layout of a question; with text, the model continues it
    max_new_tokens: int = 200  # largest number of tokens in an answer
    temperature: float = 0.7  # sampling temperature; 0 takes the likeliest token
    top_k: int | None = None  # number of likeliest tokens to draw from
    top_p: float | None = 0.9  # probability of the nucleus to draw from
    int8: bool = False  # 8-bit weights, a quarter of the memory traffic
    seed: int = 0  # random seed
    quick: bool = False  # at most 20 tokens


def answer(
    decoder: Decoder,
    conversation: Conversation,
    text: str,
    settings: Settings,
    generator: mg.Generator,
    show: Callable[[str], object] = lambda piece: None,
) -> tuple[str, int, float, float]:
    """Answer one question and show the answer piece by piece.

    Returns:
        The answer, its number of tokens, the seconds until the first token, and the seconds after it.
    """
    sampling: dict[str, Any] = dict(temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
    ids = conversation.ask(text)
    times = [time.perf_counter()]

    def timed_tokens() -> Iterator[int]:
        stop_ids = conversation.stop_ids
        for token in decoder.write(ids, settings.max_new_tokens, stop_ids=stop_ids, generator=generator, **sampling):
            times.append(time.perf_counter())
            yield token

    pieces = []
    for piece in whole_characters(conversation.tokenizer, timed_tokens()):
        pieces.append(piece)
        show(piece)
    conversation.answered("".join(pieces))
    first, last = times[min(1, len(times) - 1)], times[-1]
    return "".join(pieces), len(times) - 1, first - times[0], last - first


def questions(settings: Settings) -> Iterator[str]:
    """The prompts in the settings, or typed lines until an empty one."""
    if settings.prompt:
        for text in settings.prompt:
            print(f"> {text}")
            yield text
        return
    while True:
        try:
            text = input("> ")
        except EOFError:
            return
        if not text.strip():
            return
        yield text


def main(settings: Settings) -> None:
    if settings.quick:
        settings.max_new_tokens = min(settings.max_new_tokens, 20)
    gpt, tokenizer = load(settings.model)
    decoder, conversation = Decoder(gpt, settings.int8), Conversation(tokenizer, settings.form)
    generator = mg.Generator(settings.seed)
    for _ in decoder.write([tokenizer.eos_id], 2, temperature=0):  # compiles the kernels before the first question
        pass

    def show(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    for text in questions(settings):
        _, count, until_first, after = answer(decoder, conversation, text, settings, generator, show)
        rate = f", then {(count - 1) / after:.0f} tokens/s" if count > 1 else ""
        print(f"\n[{count} tokens, the first after {until_first:.2f} s{rate}]", flush=True)


if __name__ == "__main__":
    command(main, Settings)
