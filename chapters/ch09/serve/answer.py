"""The texts of one request while they are written: from the scheduler's thread into the server's event loop."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable

import minigrad as mg
from chapters.ch09.serve.openai_api import ApiError, Request
from chapters.ch09.serve.scheduler import Delta, Scheduler, Stopped, Text
from chapters.ch09.serve.transcript import Transcript


class Answer:
    """A request's texts, waiting or being written.

    Raises:
        QueueFull: if not all of them fit into the queue.
    """

    def __init__(self, request: Request, scheduler: Scheduler) -> None:
        self.request, self.begin, self.first = request, time.perf_counter(), 0.0  # seconds
        self.news: asyncio.Queue[tuple[int, Delta | Exception]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver_to(index: int) -> Callable[[Delta | Exception], object]:
            return lambda item: loop.call_soon_threadsafe(self.news.put_nowait, (index, item))

        prompts = [prompt for prompt in request.prompts for _ in range(request.n)]
        seed = secrets.randbits(63) if request.seed is None else request.seed
        self.texts = [self._text(prompt, seed + i, deliver_to(i)) for i, prompt in enumerate(prompts)]
        scheduler.submit(request.model.batch, self.texts)

    def _text(self, prompt: list[int], seed: int, deliver: Callable[[Delta | Exception], object]) -> Text:
        request, model = self.request, self.request.model
        rng = mg.Generator(seed % (1 << 64)).numpy
        rng.random(len(request.prefix))  # the numbers with which the prefix would have been chosen
        return Text(
            prompt=prompt,
            max_new_tokens=min(request.max_new_tokens or model.batch.room, model.batch.room - len(prompt)),
            deliver=deliver,
            rng=rng,
            transcript=Transcript(request.stop, b"".join(model.tokenizer.pieces(request.prefix))),
            sampling=request.sampling,
            stop_ids=model.stop_ids,
            alternatives=request.alternatives,
        )

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """What each text gains, as it comes. Raises ApiError if the model failed, or Stopped."""
        unfinished = len(self.texts)
        while unfinished:
            index, item = await self.news.get()
            if isinstance(item, Stopped):
                raise item
            if isinstance(item, Exception):
                raise ApiError(500, f"the model failed: {item}") from item
            self.first = self.first or time.perf_counter() - self.begin
            unfinished -= item.finish_reason is not None
            yield index, item

    def cancel(self) -> None:
        """Free the places of unfinished texts."""
        for text in self.texts:
            text.cancelled = True

    @property
    def new_tokens(self) -> list[int]:
        return [text.new_tokens for text in self.texts]

    def note(self) -> str:
        """For the log: tokens and seconds, but nothing of the text."""
        seconds = time.perf_counter() - self.begin
        read, written = sum(map(len, self.request.prompts)), sum(self.new_tokens)
        first = f", first after {self.first:.2f} s" if written else ""
        return f"{self.request.model.name}: {read} tokens read, {written} written, {seconds:.1f} s{first}"
