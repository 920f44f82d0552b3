"""Replies in OpenAI's form: one JSON object, or a stream of events.

Source: platform.openai.com/docs/api-reference, "Chat", "Chat streaming" and "Completions".
"""

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from chapters.ch09.serve.openai_api import Request
from chapters.ch09.serve.scheduler import Delta, Scored

DONE = "data: [DONE]\n\n"  # the last event of a stream


def to_json(value: Any) -> bytes:
    """JSON in ASCII, so that a lone surrogate in a name cannot fail to be encoded."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def event(value: Any) -> str:
    """A server-sent event."""
    return f"data: {to_json(value).decode()}\n\n"


class Reply:
    """The reply to a request."""

    def __init__(self, request: Request) -> None:
        self.request = request
        kind = "chat.completion" if request.chat else "text_completion"
        self.head = {
            "id": f"{'chatcmpl' if request.chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": kind + ".chunk" * (request.chat and request.stream),
            "created": int(time.time()),
            "model": request.model.name,
        }

    # ── whole ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def whole(self, texts: Sequence[list[Delta]], new_tokens: Sequence[int]) -> dict[str, Any]:
        """The object for all texts, each a list of Deltas."""
        choices = [self._choice(i, deltas) for i, deltas in enumerate(texts)]
        return {**self.head, "choices": choices, "usage": usage(self.request, new_tokens)}

    def _choice(self, index: int, deltas: list[Delta]) -> dict[str, Any]:
        text, tokens = "".join(delta.text for delta in deltas), [token for delta in deltas for token in delta.tokens]
        content = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.request.chat else {"text": text}
        return {"index": index, **content, "logprobs": self._logprobs(tokens), "finish_reason": deltas[-1].finish_reason}

    # ── as a stream ──────────────────────────────────────────────────────────────────────────────────────────────────

    def first_events(self) -> Iterator[str]:
        """What precedes the texts: chat names the speaker of each."""
        for index in range(self.request.texts if self.request.chat else 0):
            yield self._event(index, {"delta": {"role": "assistant", "content": ""}}, None, None)

    def events(self, index: int, delta: Delta) -> Iterator[str]:
        """The events for what one text gains."""
        chat, reason = self.request.chat, delta.finish_reason
        if delta.text or delta.tokens:
            content = {"delta": {"content": delta.text}} if chat else {"text": delta.text}
            yield self._event(index, content, self._logprobs(delta.tokens), None)
        if reason:
            yield self._event(index, {"delta": {}} if chat else {"text": ""}, None, reason)

    def last_events(self, new_tokens: Sequence[int]) -> Iterator[str]:
        if self.request.stream_usage:
            yield event({**self.head, "choices": [], "usage": usage(self.request, new_tokens)})
        yield DONE

    def _event(self, index: int, content: dict[str, Any], logprobs: Any, reason: str | None) -> str:
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}
        return event({**self.head, "choices": [choice], **({"usage": None} if self.request.stream_usage else {})})

    # ── log-probabilities ────────────────────────────────────────────────────────────────────────────────────────────

    def _logprobs(self, tokens: list[tuple[Scored, int]]) -> dict[str, Any] | None:
        if self.request.alternatives is None:
            return None
        return self._chat_logprobs(tokens) if self.request.chat else self._completion_logprobs(tokens)

    def _chat_logprobs(self, tokens: list[tuple[Scored, int]]) -> dict[str, Any]:
        entries = []
        for token, _ in tokens:
            alternatives = [self._entry(*alternative) for alternative in token.alternatives]
            entries.append({**self._entry(token.id, token.logprob), "top_logprobs": alternatives})
        return {"content": entries, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        piece = self._piece(token)
        return {"id": token, "token": piece.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(piece)}

    def _completion_logprobs(self, tokens: list[tuple[Scored, int]]) -> dict[str, Any]:
        return {
            "tokens": [self._name(token.id) for token, _ in tokens],
            "token_logprobs": [finite(token.logprob) for token, _ in tokens],
            "top_logprobs": [self._likeliest(token) for token, _ in tokens],
            "text_offset": [offset for _, offset in tokens],
        }

    def _likeliest(self, token: Scored) -> dict[str, float]:
        """The likeliest tokens, and the one that was written."""
        return {self._name(i): finite(logprob) for i, logprob in [*token.alternatives, (token.id, token.logprob)]}

    def _name(self, token: int) -> str:
        """A token's text; "bytes:\\xe6\\x97" for a part of a character, so that two tokens never share a name by mistake."""
        piece = self._piece(token)
        try:
            return piece.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)

    def _piece(self, token: int) -> bytes:
        return self.request.model.tokenizer.pieces([token])[0]


def finite(logprob: float) -> float:
    """JSON has no infinity."""
    return max(logprob, -9999.0)


def usage(request: Request, new_tokens: Sequence[int]) -> dict[str, int]:
    """The tokens that were read and written."""
    prompt, completion = sum(map(len, request.prompts)), sum(new_tokens)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
