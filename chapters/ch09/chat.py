"""Talk to a model in the terminal, token by token.

    python -m chapters.ch09.chat --model smollm2
    python -m chapters.ch09.chat --model runs/main/sft --form instruction
    python -m chapters.ch09.chat --model gpt2 --form text          # it goes on with what you begin

A token is some bytes, and a character may need several tokens: what is shown is whole characters only.
"""

import codecs
import sys
import time
from dataclasses import dataclass
from typing import Literal

import minigrad as mg
from chapters.ch09.decoder import Decoder
from chapters.support.command import OnDevice, command


class Conversation:
    """What was said so far, and how it is laid out for the model."""

    def __init__(self, tokenizer, form):
        self.tokenizer, self.turns = tokenizer, []
        marks_turns = "<|im_start|>" in getattr(tokenizer, "special_tokens", ())
        if form == "auto":
            form = "turns" if marks_turns else "text"
        if form == "turns" and not marks_turns:
            raise ValueError("this model's tokenizer marks no turns: use --form text or --form instruction")
        self.form = form
        self.stop_ids = {tokenizer.eos_id}
        if form == "turns":
            self.stop_ids.add(tokenizer.special_tokens["<|im_end|>"])

    def ask(self, text):
        """The token ids that the model reads before it answers this."""
        if self.form == "turns":
            from chapters.ch09.smollm2 import chat_ids

            self.turns.append(("user", text))
            return chat_ids(self.tokenizer, self.turns)
        if self.form == "instruction":
            from chapters.ch10.sft import format_prompt

            return self.tokenizer.encode(format_prompt(text))
        return self.tokenizer.encode(text) or [self.tokenizer.eos_id]

    def answered(self, text):
        self.turns.append(("assistant", text))


def whole_characters(tokenizer, tokens):
    """Yields text for a stream of tokens: bytes are held back until their character is complete (at the end: U+FFFD)."""
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        text = utf8.decode(tokenizer.pieces([token])[0])
        if text:
            yield text
    rest = utf8.decode(b"", final=True)
    if rest:
        yield rest


def answer(decoder, conversation, text, settings, generator, show=lambda piece: None):
    """One question: shows the answer piece by piece.  Returns (answer, tokens, seconds until the first, seconds after it)."""
    ids = conversation.ask(text)
    times = [time.perf_counter()]

    def noted():
        for token in decoder.write(
            ids, settings.max_new_tokens, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p,
            stop_ids=conversation.stop_ids, generator=generator,
        ):  # fmt: skip
            times.append(time.perf_counter())
            yield token

    pieces = []
    for piece in whole_characters(conversation.tokenizer, noted()):
        pieces.append(piece)
        show(piece)
    said = "".join(pieces)
    conversation.answered(said)
    first, last = times[min(1, len(times) - 1)], times[-1]
    return said, len(times) - 1, first - times[0], last - first


@dataclass
class Settings(OnDevice):
    """Talk to a model. An empty line ends the conversation."""

    model: str = "smollm2"  # smollm2, a .gguf file, gpt2 (or its sisters, or a folder of one), or a run folder
    prompt: tuple[str, ...] = ()  # what to say, in place of typing; several are said one after the other
    form: Literal["auto", "turns", "instruction", "text"] = "auto"  # how a question is laid out; text is simply gone on with
    max_new_tokens: int = 200  # most tokens of an answer
    temperature: float = 0.7  # 0 takes the likeliest token
    top_k: int | None = None  # keep only the k likeliest tokens
    top_p: float | None = 0.9  # keep only the nucleus of this probability
    int8: bool = False  # weights of eight bits: a quarter of the memory traffic
    seed: int = 0  # of the dice
    quick: bool = False  # 20 tokens at most


def questions(settings):
    """What is said: the prompts given, or lines typed until an empty one."""
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


def main(settings):
    from chapters.ch09.load import load

    if settings.quick:
        settings.max_new_tokens = min(settings.max_new_tokens, 20)
    gpt, tokenizer = load(settings.model)
    decoder, conversation = Decoder(gpt, settings.int8), Conversation(tokenizer, settings.form)
    generator = mg.Generator(settings.seed)
    for _ in decoder.write([tokenizer.eos_id], 2, temperature=0):  # compiles, so that no answer waits for it half-way
        pass

    def show(piece):
        sys.stdout.write(piece)
        sys.stdout.flush()

    for text in questions(settings):
        _, count, until_first, after = answer(decoder, conversation, text, settings, generator, show)
        rate = f", then {(count - 1) / after:.0f} tokens/s" if count > 1 else ""
        print(f"\n[{count} tokens, the first after {until_first:.2f} s{rate}]", flush=True)


if __name__ == "__main__":
    command(main, Settings)
