"""The server's addresses: requests in, answers out, and what happens when the reader leaves in the middle."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from chapters.ch09.serve.answer import Answer
from chapters.ch09.serve.gate import Gate, JsonResponse, refusal
from chapters.ch09.serve.models import ServedModel
from chapters.ch09.serve.openai_api import ApiError, find_model, read_request, read_reward_request
from chapters.ch09.serve.replies import Reply, event
from chapters.ch09.serve.scheduler import Delta, QueueFull, Scheduler, Stopped
from minigrad.checked_json import parse_json
from minigrad.serialization import short

T = TypeVar("T")
PAGE = Path(__file__).with_name("page")
STYLE = Path(__file__).parents[2] / "support" / "style.css"
MOST_BODY = 1 << 20  # bytes of a request
MOST_SECONDS = 30  # until a request is whole
MOST_DISCARDED = 64 << 20  # bytes of a longer request that are taken in and thrown away before the refusal


# ── texts on their way ───────────────────────────────────────────────────────────────────────────────────────────────


class EventStream(StreamingResponse):
    """An answer as server-sent events. It frees the answer's places however it ends, and at once if the reader leaves."""

    def __init__(self, answer: Answer, scope: Scope) -> None:
        super().__init__(self._events(answer), media_type="text/event-stream")
        self.answer, self.note = answer, scope.setdefault("note", [])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answer.cancel()
            self.note.append(self.answer.note())

    async def _events(self, answer: Answer) -> AsyncIterator[str]:
        reply = Reply(answer.request)
        for text in reply.first_events():
            yield text
        try:
            async for index, delta in answer.deltas():
                for text in reply.events(index, delta):
                    yield text
            for text in reply.last_events(answer.new_tokens):
                yield text
        except ApiError as error:
            yield event(error.body())
        except Stopped as error:
            yield event(ApiError(503, str(error)).body())


async def whole_answer(answer: Answer, http: HttpRequest) -> Response:
    """The answer in one piece; the places become free at once if the reader leaves."""
    texts: list[list[Delta]] = [[] for _ in answer.texts]

    async def collect() -> None:
        async for index, delta in answer.deltas():
            texts[index].append(delta)

    collecting, leaving = asyncio.ensure_future(collect()), asyncio.ensure_future(gone(http))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            return Response(status_code=499)  # nobody reads it
        collecting.result()  # raises ApiError if the model failed
        return await run_in_threadpool(lambda: JsonResponse(Reply(answer.request).whole(texts, answer.new_tokens)))
    finally:
        for task in (collecting, leaving, answer):
            task.cancel()
        http.scope.setdefault("note", []).append(answer.note())


async def gone(http: HttpRequest) -> None:
    """Wait until the reader has closed the connection."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


# ── requests on their way in ─────────────────────────────────────────────────────────────────────────────────────────


async def read(http: HttpRequest, reader: Callable[..., T], *arguments: Any) -> T:
    """What `reader` makes of a request's JSON object, in another thread, since a long request takes a moment."""
    if http.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "Content-Type: expected application/json, got another; send -H 'Content-Type: application/json'")
    try:
        body = await asyncio.wait_for(read_body(http), MOST_SECONDS)
    except asyncio.TimeoutError:
        raise ApiError(408, f"request: expected all of it within {MOST_SECONDS} s, got a part; send it faster") from None
    return await run_in_threadpool(lambda: reader(parse_object(body), *arguments))


async def read_body(http: HttpRequest) -> bytes:
    """The bytes of a request.  Raises ApiError if there are too many."""
    body, size = bytearray(), 0
    async for piece in http.stream():
        size += len(piece)
        if size <= MOST_BODY:
            body += piece
        elif size > MOST_DISCARDED:  # a shorter request is heard out, because many clients read no answer before they end
            break
    if size > MOST_BODY:
        message = f"request: expected at most {MOST_BODY:,} bytes, got more; shorten it"
        raise ApiError(413, message, code="request_too_large")
    return bytes(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in these bytes.  Raises ApiError."""
    try:
        value = parse_json(body)
    except ValueError as error:
        raise ApiError(400, f"request: expected JSON, got text that is not ({error}); correct it") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"request: expected a JSON object, got {type(value).__name__}; put the fields into one")
    return value


# ── the application ──────────────────────────────────────────────────────────────────────────────────────────────────


def make_app(
    models: Mapping[str, ServedModel],
    scheduler: Scheduler,
    most_texts: int,
    hosts: frozenset[str] | None,
    log: Callable[[str], object],
) -> Starlette:
    """The application; it starts and stops the scheduler.

    Args:
        most_texts: largest number of texts that a request may ask for.
        hosts, log: see Gate.
    """

    async def list_models(http: HttpRequest) -> Response:
        return JsonResponse({"object": "list", "data": [model.describe() for model in models.values()]})

    async def one_model(http: HttpRequest) -> Response:
        return JsonResponse(find_model(http.path_params["name"], models).describe())

    async def texts(http: HttpRequest, chat: bool) -> Response:
        request = await read(http, read_request, models, chat, most_texts)
        answer = Answer(request, scheduler)
        return EventStream(answer, http.scope) if request.stream else await whole_answer(answer, http)

    async def completions(http: HttpRequest) -> Response:
        return await texts(http, chat=False)

    async def chat_completions(http: HttpRequest) -> Response:
        return await texts(http, chat=True)

    async def reward(http: HttpRequest) -> Response:
        model, prompt, response = await read(http, read_reward_request, models)
        judge = model.reward
        assert judge is not None
        score = scheduler.call(lambda: judge.score(model.tokenizer, prompt, response))
        return JsonResponse({"model": model.name, **await asyncio.wrap_future(score)})

    async def style(http: HttpRequest) -> Response:
        return FileResponse(STYLE)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with scheduler:
            yield

    endpoint = [
        Route("/models", list_models),
        Route("/models/{name:path}", one_model),
        Route("/completions", completions, methods=["POST"]),
        Route("/chat/completions", chat_completions, methods=["POST"]),
    ]
    routes = [
        Mount("/v1", routes=endpoint),
        Mount("/minigrad", routes=[Route("/reward", reward, methods=["POST"])]),
        Route("/style.css", style),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Gate, hosts=hosts, log=log)],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )


async def on_api_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return refusal(error)


async def on_http_error(http: HttpRequest, error: Exception) -> Response:
    """An unknown address, or a known one with another method."""
    assert isinstance(error, HTTPException)
    expected = "GET /v1/models, POST /v1/completions or POST /v1/chat/completions"
    message = f"address: expected {expected}, got {http.method} {short(http.scope['path'])}"
    return refusal(ApiError(error.status_code, message), error.headers)


async def on_full_queue(http: HttpRequest, error: Exception) -> Response:
    return refusal(ApiError(429, str(error), code="queue_full"))


async def on_stopped(http: HttpRequest, error: Exception) -> Response:
    return refusal(ApiError(503, str(error)))


async def on_failure(http: HttpRequest, error: Exception) -> Response:
    """A bug; Starlette passes the exception on, and uvicorn prints its traceback."""
    return refusal(ApiError(500, f"{type(error).__name__}: {error}"))


async def on_leaving(http: HttpRequest, error: Exception) -> Response:
    """The reader left before the request was whole."""
    return Response(status_code=499)


HANDLERS: Mapping[Any, Any] = {
    ApiError: on_api_error,
    HTTPException: on_http_error,
    QueueFull: on_full_queue,
    Stopped: on_stopped,
    ClientDisconnect: on_leaving,
    Exception: on_failure,
}
