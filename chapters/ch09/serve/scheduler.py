"""Continuous batching: texts join and leave a model's batch between two steps.

A batch has a fixed number of places, each with a cache for the keys and values of one text. One thread computes for all
models. It goes from model to model, and for each of them it

1. takes away the places of texts that nobody waits for any more, and gives a free place to the first waiting text (`admit`),
2. reads a piece of that text's prompt, so that a long prompt delays the others by no more than a piece (`advance`),
3. adds a token to every text of the batch, with a single reading of the weights (`advance`). Finished texts leave.

A free place keeps its cache. If the next prompt begins like the last one, as in the next turn of a conversation, only the
rest is read.

Sources: Yu et al. 2022, Orca, section 3 (scheduling step by step); Agrawal et al. 2023 (arXiv:2308.16369; prompts in pieces).
"""

import threading
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from chapters.ch06_gpt import GPT
from chapters.ch08_sample import choose
from chapters.ch09.decoder import Decoder, step_together
from chapters.ch09.serve.transcript import Transcript

PIECE = 128  # tokens of a prompt that are read between two steps


class QueueFull(RuntimeError):
    """More texts or calls would wait than the queue holds."""


class Stopped(RuntimeError):
    """The server ends before the text does."""


class Scored(NamedTuple):
    """A token with its log-probability in nats, and the likeliest tokens in its place with theirs."""

    id: int
    logprob: float
    alternatives: list[tuple[int, float]]


class Delta(NamedTuple):
    """What a text gains: characters, their tokens with the number of characters before each, and at the end the reason."""

    text: str
    tokens: list[tuple[Scored, int]]
    finish_reason: str | None


@dataclass(eq=False)
class Text:
    """A text to be continued.

    `deliver` is called in the scheduler's thread with each Delta, or with the exception that ended the text.
    """

    prompt: list[int]
    max_new_tokens: int
    deliver: Callable[[Delta | Exception], object]
    rng: np.random.Generator  # of this text alone, so that its company does not change it
    transcript: Transcript = field(default_factory=Transcript)
    sampling: dict[str, Any] = field(default_factory=dict)  # chapter 8's temperature, top_k and top_p
    stop_ids: Collection[int] = ()
    alternatives: int | None = None  # number of likeliest tokens to report; None: no log-probabilities
    cancelled: bool = False  # set by whoever no longer waits for the text
    new_tokens: int = 0  # chosen so far, without the stop token
    newest: int = -1  # the token that the next step adds


@dataclass(eq=False)
class Place:
    """A place in the batch: a Decoder for one text after the other."""

    decoder: Decoder
    read: int = 0  # number of the cache's first tokens that were read, rather than written

    def reusable(self, prompt: Sequence[int]) -> int:
        """Number of the prompt's first tokens that are in the cache as a fresh reading would leave them: whole pieces."""
        most = min(self.read, len(prompt) - 1)  # the last token must be read for its logits
        ids = self.decoder.ids
        return next((i for i in range(most) if ids[i] != prompt[i]), most) // PIECE * PIECE

    def begin(self, prompt: Sequence[int]) -> None:
        self.read = self.reusable(prompt)
        self.decoder.ids = self.decoder.ids[: self.read]


class Batch:
    """A model's texts: waiting ones, the one whose prompt is being read, and those that each step continues.

    Args:
        size: largest number of texts at a time.
        room: largest number of tokens of a prompt and its continuation.
        pieces: the bytes of each of several tokens.
    """

    def __init__(
        self, gpt: GPT, pieces: Callable[[list[int]], list[bytes]], size: int = 8, room: int | None = None, int8: bool = False
    ) -> None:
        first = Decoder(gpt, int8, room=room)
        self.room, self.pieces = first.room, pieces
        self.free = [Place(first), *(Place(Decoder(gpt, beside=first, room=room)) for _ in range(size - 1))]
        self.waiting: deque[Text] = deque()
        self.reading: Text | None = None
        self.writing: list[Text] = []
        self.places: dict[Text, Place] = {}  # of the texts that are read or written
        self.steps = 0  # readings of the weights, each of which added a token to every text of the batch

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.places)

    def admit(self) -> None:
        """Drop cancelled texts, and give a free place to the first waiting text, unless another prompt is being read."""
        for text in [text for text in self.places if text.cancelled]:
            self.leave(text)
        self.waiting = deque(text for text in self.waiting if not text.cancelled)
        if self.waiting and self.free and self.reading is None:
            text = self.reading = self.waiting.popleft()
            place = max(self.free, key=lambda place: place.reusable(text.prompt))
            self.free.remove(place)
            self.places[text] = place
            place.begin(text.prompt)

    def advance(self) -> None:
        """Read a piece of the new prompt, then add a token to every text of the batch."""
        if self.reading is not None:
            text, place = self.reading, self.places[self.reading]
            end = min(place.read + PIECE, len(text.prompt))
            logits = place.decoder.read(text.prompt[:end])  # (V,)
            place.read = end
            if end == len(text.prompt):
                self.reading = None
                self.writing.append(text)
                self.choose(text, logits)
        if self.writing:
            texts = list(self.writing)
            decoders = [self.places[text].decoder for text in texts]
            self.steps += 1
            for text, logits in zip(texts, step_together(decoders, [text.newest for text in texts]), strict=True):
                self.choose(text, logits)

    def choose(self, text: Text, logits: np.ndarray) -> None:
        """Choose a text's next token, deliver what may be shown, and let the text leave if it is done.  logits: (V,)"""
        reason: str | None = None
        token = int(choose(logits[None], text.rng.random(1), **text.sampling)[0])
        if token in text.stop_ids:
            shown, reason = text.transcript.end(), "stop"
        else:
            text.newest = token
            text.new_tokens += 1
            shown = text.transcript.add(scored(logits, token, text.alternatives), self.pieces([token])[0])
            reason = "stop" if shown.stopped else "length" if text.new_tokens == text.max_new_tokens else None
            if reason == "length":
                rest = text.transcript.end()
                shown = shown._replace(text=shown.text + rest.text, tokens=shown.tokens + rest.tokens)
        if reason:
            self.leave(text)
        if shown.text or shown.tokens or reason:
            text.deliver(Delta(shown.text, shown.tokens, reason))

    def leave(self, text: Text) -> None:
        """Free the place of a text that is read or written."""
        self.free.append(self.places.pop(text))
        self.reading = None if self.reading is text else self.reading
        self.writing = [other for other in self.writing if other is not text]

    def fail(self, error: Exception) -> None:
        """End every text that has a place."""
        for text in list(self.places):
            self.leave(text)
            text.deliver(error)

    def close(self, error: Exception) -> None:
        """End every text, waiting ones too."""
        self.fail(error)
        for text in self.waiting:
            text.deliver(error)
        self.waiting.clear()


def scored(logits: np.ndarray, token: int, alternatives: int | None) -> Scored:
    """A token with its log-probability and the likeliest alternatives, none if `alternatives` is None.  logits: (V,)"""
    if alternatives is None:
        return Scored(token, 0.0, [])
    logits = logits.astype(np.float64) - logits.max()  # (V,)
    log_p = logits - np.log(np.exp(logits).sum())  # (V,)
    n = min(alternatives, len(log_p))
    likeliest = np.argpartition(-log_p, n - 1)[:n] if n else np.empty(0, np.int64)  # (n,)
    likeliest = likeliest[np.lexsort((likeliest, -log_p[likeliest]))]  # (n,)  likeliest first, ties in token order
    return Scored(token, float(log_p[token]), [(int(i), float(log_p[i])) for i in likeliest])


class Scheduler:
    """The thread that computes for all models.

    Args:
        batches: one for each model.
        queue: largest number of texts that wait for a place, for each model; and of waiting calls.
    """

    def __init__(self, batches: Sequence[Batch], queue: int = 32) -> None:
        self.batches, self.queue = batches, queue
        self.changed = threading.Condition()  # guards the waiting texts, the calls and `stopping`
        self.calls: deque[tuple[Callable[[], Any], Future]] = deque()
        self.stopping = False
        self.thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def __enter__(self) -> "Scheduler":
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self.thread.join()

    def stop(self) -> None:
        """Let every unfinished text and call end with Stopped, and then the thread."""
        with self.changed:
            self.stopping = True
            self.changed.notify()

    def submit(self, batch: Batch, texts: Sequence[Text]) -> None:
        """Let texts wait for a place in a batch.  Raises QueueFull if not all of them fit, and then none waits; or Stopped."""
        with self.changed:
            self._refuse_if_stopping()
            waiting = sum(not text.cancelled for text in batch.waiting)
            if waiting + len(texts) > self.queue:
                raise QueueFull(
                    f"queue: expected room for {len(texts)} texts, got {waiting} of {self.queue} taken; ask again later"
                )
            batch.waiting.extend(texts)
            self.changed.notify()

    def call(self, function: Callable[[], Any]) -> Future:
        """Let the scheduler's thread call a function between two steps.  Raises QueueFull if too many wait, or Stopped."""
        future: Future = Future()
        with self.changed:
            self._refuse_if_stopping()
            if len(self.calls) >= self.queue:
                raise QueueFull(f"queue: expected fewer than {self.queue} calls, got {len(self.calls)}; ask again later")
            self.calls.append((function, future))
            self.changed.notify()
        return future

    def _refuse_if_stopping(self) -> None:
        if self.stopping:
            raise Stopped("the server is about to end; ask it again when it runs")

    def _run(self) -> None:
        for call in self._turns():
            if call is not None:
                fulfil(*call)
            for batch in self.batches:
                try:
                    batch.advance()
                except Exception as error:  # such as weights with NaN, or too little memory; the server goes on
                    traceback.print_exception(error)
                    batch.fail(error)
        for batch in self.batches:
            batch.close(Stopped("the server ended"))
        for _, future in self.calls:
            fulfil(self._refuse_if_stopping, future)

    def _turns(self) -> Iterator[tuple[Callable[[], Any], Future] | None]:
        """For each round, a function to call or None. Waits while there is nothing to do, and ends when the server stops."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.stopping or self.calls or any(batch.busy for batch in self.batches))
                if self.stopping:
                    return
                for batch in self.batches:
                    batch.admit()
                call = self.calls.popleft() if self.calls else None
            yield call


def fulfil(function: Callable[[], Any], future: Future) -> None:
    """Call a function and put its result or its exception into the future."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
