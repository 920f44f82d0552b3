"""The gate before all addresses: who may ask, the security headers, and the log."""

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chapters.ch09.serve.openai_api import ApiError
from chapters.ch09.serve.replies import to_json

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # the browser asks whether its copy of the page is still the newest
}


class JsonResponse(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content)


def refusal(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    unread = {"connection": "close"} if error.status in (408, 413) else {}  # the rest of the request is still on its way
    return JsonResponse(error.body(), error.status, {**(headers or {}), **unread})


class Gate:
    """Lets requests from this server's own page and from programs in, adds the security headers, and logs each request.

    A page of another site may send requests to 127.0.0.1 as well: the browser names that site in `Origin`. A site may even
    let its own name point to 127.0.0.1 (DNS rebinding): then that name is in `Host`.

    Args:
        hosts: the names under which the server may be addressed; None: any.
        log: called with a line for each request that is not a file of the page. No line holds any text of a user.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, log: Callable[[str], object]) -> None:
        self.app, self.hosts, self.log = app, hosts, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        note: list[str] = []
        scope["note"] = note  # an answer adds its tokens and seconds
        try:
            app = self._refusal(Headers(scope=scope)) or self.app
            await app(scope, receive, send_with_headers)
        except Exception:
            status = 500
            raise
        finally:
            if scope["method"] == "POST" or status >= 400:
                path = scope.get("raw_path", b"").decode("ascii", "replace")[:80]  # without control characters: they are in %00
                client = (scope.get("client") or ["?"])[0]
                line = f"{time.strftime('%H:%M:%S')} {client} {scope['method']} {path} {status or 'left'}"
                self.log(" ".join([line, *note]))

    def _refusal(self, headers: Headers) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts is not None and name_of(host) not in self.hosts:
            names = " or ".join(sorted(self.hosts))
            return refusal(ApiError(403, f"Host: expected {names}, got another name; use http://127.0.0.1"))
        if origin not in (None, f"http://{host}", f"https://{host}"):
            return refusal(ApiError(403, "Origin: expected this server's own page, got another site; use a program instead"))
        return None


def name_of(host: str) -> str | None:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
