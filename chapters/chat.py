"""Chat with a model in the terminal, token by token.

    python -m chapters.chat --model smollm2
    python -m chapters.chat --model runs/main/assistant
    python -m chapters.chat --model gpt2                      # a base model continues your text

A model that was tuned to answer reads your question in the layout that it was tuned on; --form overrides the choice. Ctrl-C
stops an answer. At the prompt an empty line, Ctrl-C or Ctrl-D ends the conversation.

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
from chapters.ch09.load import form_of, load
from chapters.ch09.smollm2 import SYSTEM, chat_ids
from chapters.support.command import OnDevice, command

DESCRIPTIONS = {
    "turns": "an assistant, which reads the whole conversation",
    "instruction": "an assistant, which reads each instruction alone, in chapter 10's template (--form text: no template)",
    "text": "continues your text (--form instruction: asks in chapter 10's template)",
}


class Conversation:
    """The turns so far, and the form in which the model reads them.

    Args:
        form: "turns", "instruction" or "text"; with "auto", the form that the model was tuned on, else turns if the
            tokenizer marks them, else text.
        tuned_on: the form noted in the model's file, None if there is no note.
        room: the model's context in tokens. What does not fit is left out, and `crop_notice` says so; None: no limit.
    """

    def __init__(self, tokenizer: Tokenizer, form: str, tuned_on: str | None = None, room: int | None = None) -> None:
        self.tokenizer, self.room = tokenizer, room
        self.turns: list[tuple[str, str]] = []
        self.system = SYSTEM  # the message before the turns, in the form turns
        self.crop_notice = ""
        marks_turns = "<|im_start|>" in getattr(tokenizer, "special_tokens", ())
        if form == "auto":
            form = tuned_on if tuned_on in DESCRIPTIONS else "turns" if marks_turns else "text"
        if form == "turns" and not marks_turns:
            raise ValueError("--form turns: this model's tokenizer marks no turns; use --form text or --form instruction")
        self.form = form
        self.stop_ids = {tokenizer.eos_id}
        if form == "turns":
            self.stop_ids.add(tokenizer.special_tokens["<|im_end|>"])

    def ask(self, text: str) -> list[int]:
        """The token ids that the model reads before it answers."""
        self.turns.append(("user", text))
        self.crop_notice, ids = "", self.layout()
        if self.room is None:
            return ids
        while len(ids) > self.room and self.form == "turns" and len(self.turns) > 1:
            del self.turns[:2]  # the oldest question and its answer
            self.crop_notice, ids = (
                f"the context of {self.room} tokens is full, so the oldest turns were cropped",
                self.layout(),
            )
        if len(ids) > self.room:
            self.crop_notice = f"the context has {self.room} tokens, so the first {len(ids) - self.room} tokens were cropped"
        return ids[-self.room :]

    def layout(self) -> list[int]:
        """The tokens of the whole conversation, or of the last question alone if the model was not tuned on turns."""
        if self.form == "turns":
            return chat_ids(self.tokenizer, self.turns, self.system)
        text = self.turns[-1][1]
        if self.form == "instruction":
            from chapters.ch10.sft import format_prompt

            return self.tokenizer.encode(format_prompt(text))
        return self.tokenizer.encode(text) or [self.tokenizer.eos_id]

    def add_answer(self, text: str) -> None:
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
    """Chat with a model. Ctrl-C stops an answer; an empty line ends the conversation."""

    model: str = "smollm2"  # smollm2, a .gguf file, a published GPT-2, a folder of its files, or a run folder
    prompt: tuple[str, ...] = ()  # questions to ask one after the other, instead of typing
    form: Literal["auto", "turns", "instruction", "text"] = "auto"  # layout of a question; auto: as the model was tuned
    max_new_tokens: int = 200  # largest number of tokens in an answer
    temperature: float = 0.2  # sampling temperature, as SmolLM2's authors advise; 0 takes the likeliest token
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

    Ctrl-C ends the answer early; what has been said by then counts as the answer.

    Returns:
        The answer, its number of tokens, the seconds until the first token, and the seconds after it.
    """
    sampling: dict[str, Any] = dict(temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
    ids = conversation.ask(text)
    if conversation.crop_notice:
        show(f"[{conversation.crop_notice}]\n")
    times = [time.perf_counter()]

    def timed_tokens() -> Iterator[int]:
        stop_ids = conversation.stop_ids
        for token in decoder.write(ids, settings.max_new_tokens, stop_ids=stop_ids, generator=generator, **sampling):
            times.append(time.perf_counter())
            yield token

    pieces = []
    try:
        for piece in whole_characters(conversation.tokenizer, timed_tokens()):
            pieces.append(piece)
            show(piece)
    except KeyboardInterrupt:
        show(" [stopped]")
    if len(ids) + len(times) - 1 > decoder.room:
        show(f"\n[the answer went past the context of {decoder.room} tokens, and the model no longer saw the beginning]")
    conversation.add_answer("".join(pieces))
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
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not text.strip():
            return
        yield text


def main(settings: Settings) -> None:
    if settings.quick:
        settings.max_new_tokens = min(settings.max_new_tokens, 20)
    gpt, tokenizer = load(settings.model)
    conversation = Conversation(tokenizer, settings.form, form_of(settings.model), gpt.config.context)
    print(f"{settings.model}: {DESCRIPTIONS[conversation.form]}")
    decoder = Decoder(gpt, settings.int8)
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
