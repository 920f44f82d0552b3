"""OpenAI's requests: what the server reads of them, and what it refuses.

A request is a JSON object. Every field is taken out by name and checked; a field that remains is one that the server does not
implement, and is refused. So no setting is ever ignored without a word.

Source: platform.openai.com/docs/api-reference, "Chat" and "Completions".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chapters.ch09.serve.models import ServedModel
from minigrad.serialization import short

# Fields that the server does not implement, and the values with which they change nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "include_obfuscation": (False,),
}
MOST_STOP_CHARACTERS = 200  # of a stop string
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}  # OpenAI renamed "system"


class ApiError(Exception):
    """A refusal in OpenAI's form: an HTTP status, a sentence, and the field that it is about."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass
class Request:
    """A checked request for texts."""

    model: ServedModel
    prompts: list[list[int]]  # token ids; `n` texts continue each of them
    n: int
    max_new_tokens: int | None  # None: until the context is full
    sampling: dict[str, Any]
    seed: int | None
    stop: list[str]
    alternatives: int | None  # likeliest tokens to list beside each token; None: no log-probabilities
    prefix: list[int]  # token ids with which the answer begins; part of the prompt, too
    stream: bool
    stream_usage: bool
    chat: bool

    @property
    def texts(self) -> int:
        return self.n * len(self.prompts)


class Fields:
    """The fields of a JSON object, taken out one by one; null counts as absent."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self.rest = {name: item for name, item in value.items() if item is not None}

    def take(self, name: str, expected: str, fits: Callable[[Any], bool], default: Any = None) -> Any:
        """Take a field out.  Raises ApiError if it is there and does not fit."""
        if name not in self.rest:
            return default
        value = self.rest.pop(name)
        if not fits(value):
            raise ApiError(400, f"{name}: expected {expected}, got {short(value)}", name)
        return value

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> Any:
        return self.take(
            name, f"a whole number from {low:,} to {high:,}", lambda v: type(v) is int and low <= v <= high, default
        )

    def number(self, name: str, low: float, high: float, default: float) -> float:
        return self.take(
            name, f"a number from {low:g} to {high:g}", lambda v: type(v) in (int, float) and low <= v <= high, default
        )

    def truth(self, name: str) -> bool:
        return self.take(name, "true or false", lambda v: type(v) is bool, False)

    def refuse_rest(self, where: str = "") -> None:
        """Raise ApiError if a field is left that would change something."""
        for name, value in self.rest.items():
            if name not in NEUTRAL:
                raise ApiError(400, f"{where}{short(name)}: no field of this server; leave it out", name[:100])
            if not any(value == neutral and type(value) is type(neutral) for neutral in NEUTRAL[name]):
                raise ApiError(400, f"{where}{name}: this server does not implement it; leave it out", name)


def read_request(body: Mapping[str, Any], models: Mapping[str, ServedModel], chat: bool, most_texts: int) -> Request:
    """Check a request for texts.  Raises ApiError.

    Args:
        chat: whether it came to /v1/chat/completions.
        most_texts: largest number of texts that a request may ask for.
    """
    fields = Fields(body)
    model = read_model(fields, models)
    room = model.batch.room
    prefix = fields.take("prefix_tokens", "a list of token ids", lambda v: are_ids(v, model), []) if chat else []
    prompts = [read_messages(fields, model) + prefix] if chat else read_prompts(fields, model)
    for name in ("user", "safety_identifier", "prompt_cache_key"):  # for OpenAI's own books; no text depends on them
        fields.take(name, "a string", lambda v: isinstance(v, str))
    stream = fields.truth("stream")
    request = Request(
        model=model,
        prompts=prompts,
        n=fields.integer("n", 1, most_texts, 1),
        max_new_tokens=read_max_tokens(fields, room, chat),
        sampling={
            "temperature": fields.number("temperature", 0, 2, 1.0),
            "top_p": read_top_p(fields),
            "top_k": fields.integer("top_k", 1, 1 << 31),
        },
        seed=fields.integer("seed", -(1 << 63), (1 << 63) - 1),
        stop=read_stop(fields),
        alternatives=read_alternatives(fields) if chat else fields.integer("logprobs", 0, 5),
        prefix=prefix,
        stream=stream,
        stream_usage=read_stream_usage(fields, stream),
        chat=chat,
    )
    fields.refuse_rest()
    if request.texts > most_texts:
        raise ApiError(400, f"prompt: expected at most {most_texts} texts a request, got {request.texts}; ask several times")
    longest = max(map(len, prompts))
    if longest >= room:
        field = "messages" if chat else "prompt"
        message = f"{field}: expected fewer tokens than the context of {room:,}, got {longest:,}; shorten the text"
        raise ApiError(400, message, field, "context_length_exceeded")
    return request


def read_model(fields: Fields, models: Mapping[str, ServedModel]) -> ServedModel:
    name = fields.take("model", "a string", lambda v: isinstance(v, str))
    if name is None:
        raise ApiError(400, f"model: expected one of {', '.join(models)}, got none", "model")
    return find_model(name, models)


def find_model(name: str, models: Mapping[str, ServedModel]) -> ServedModel:
    """The model with this name.  Raises ApiError."""
    if name not in models:
        raise ApiError(404, f"model: expected one of {', '.join(models)}, got {short(name)}", "model", "model_not_found")
    return models[name]


def read_max_tokens(fields: Fields, room: int, chat: bool) -> int | None:
    """The largest number of new tokens. Without it, chat goes on until the context is full, and a completion ends at 16."""
    newer = fields.integer("max_completion_tokens", 1, room) if chat else None
    older = fields.integer("max_tokens", 1, room, None if chat else 16)
    if newer is not None and older is not None:
        raise ApiError(400, "max_tokens: expected max_tokens or max_completion_tokens, got both; leave one out", "max_tokens")
    return newer or older


def read_top_p(fields: Fields) -> float | None:
    """The probability of the nucleus; None for 1, which leaves out no token."""
    p = fields.take("top_p", "a number above 0 and at most 1", lambda v: type(v) in (int, float) and 0 < v <= 1, 1)
    return None if p == 1 else p


def read_stop(fields: Fields) -> list[str]:
    def fits(value: Any) -> bool:
        strings = [value] if isinstance(value, str) else value
        return (
            isinstance(strings, list)
            and len(strings) <= 4
            and all(isinstance(s, str) and 0 < len(s) <= MOST_STOP_CHARACTERS for s in strings)
        )

    stop = fields.take("stop", f"up to four strings of 1 to {MOST_STOP_CHARACTERS} characters", fits, [])
    return [stop] if isinstance(stop, str) else stop


def read_alternatives(fields: Fields) -> int | None:
    """Chat's `logprobs` and `top_logprobs`."""
    wanted, most = fields.truth("logprobs"), fields.integer("top_logprobs", 0, 20)
    if most is not None and not wanted:
        raise ApiError(400, "top_logprobs: expected logprobs to be true, got false; set it, or leave this out", "top_logprobs")
    return (most or 0) if wanted else None


def read_stream_usage(fields: Fields, stream: bool) -> bool:
    options = fields.take("stream_options", "an object, with stream true", lambda v: isinstance(v, dict) and stream, {})
    inner = Fields(options)
    wanted = inner.truth("include_usage")
    inner.refuse_rest("stream_options.")
    return wanted


# ── prompts and conversations ────────────────────────────────────────────────────────────────────────────────────────


def are_ids(value: Any, model: ServedModel) -> bool:
    return isinstance(value, list) and all(type(i) is int and 0 <= i < model.tokenizer.vocab_size for i in value)


def read_prompts(fields: Fields, model: ServedModel) -> list[list[int]]:
    """The prompts of a completion as token ids: a string, a list of strings, token ids, or a list of lists of them.

    An empty prompt starts from the end-of-text token. A special token in a string is plain text.
    """

    def fits(value: Any) -> bool:
        if isinstance(value, str) or are_ids(value, model) and value:
            return True
        return isinstance(value, list) and bool(value) and all(isinstance(p, str) or are_ids(p, model) and p for p in value)

    expected = f"a string, a list of strings, or token ids below {model.tokenizer.vocab_size:,}"
    prompt = fields.take("prompt", expected, fits, "")
    several = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
    return [(encode(model, p, "prompt") or [model.tokenizer.eos_id]) if isinstance(p, str) else p for p in several]


def read_messages(fields: Fields, model: ServedModel) -> list[int]:
    """The token ids of a conversation, up to the point where the assistant speaks."""
    turns = read_turns(fields)
    system = turns.pop(0)[1] if turns[0][0] == "system" else None
    if not turns or turns[-1][0] != "user" or any(role == "system" for role, _ in turns):
        raise ApiError(400, "messages: expected a system message only first, and a user's message last", "messages")
    if system and model.form != "turns":
        advice = "this model was not tuned on system messages; leave the system message out"
        raise ApiError(400, f"messages: expected no system message, got one; {advice}", "messages")
    try:
        return model.conversation_ids(turns, system)
    except ValueError as error:  # a character that the tokenizer lacks
        raise ApiError(400, f"messages: {error}", "messages") from None


def read_turns(fields: Fields) -> list[tuple[str, str]]:
    """The messages as (role, text), at least one."""
    messages = fields.take("messages", "a list of one message or more", lambda v: isinstance(v, list) and bool(v))
    if messages is None:
        raise ApiError(400, "messages: expected a list of one message or more, got none", "messages")
    turns = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, dict):
            raise ApiError(400, f"{where}: expected an object with role and content, got {short(message)}", "messages")
        inner = Fields({name: value for name, value in message.items() if value != []})
        role = inner.take("role", "system, user or assistant", ROLES.__contains__)
        content = inner.take("content", "a string, or a list of parts of the type text", is_content)
        inner.refuse_rest(f"{where}.")
        if role is None or content is None:
            raise ApiError(400, f"{where}: expected role and content, got {'no content' if role else 'no role'}", "messages")
        turns.append((ROLES[role], content if isinstance(content, str) else "".join(part["text"] for part in content)))
    return turns


def is_content(value: Any) -> bool:
    parts = value if isinstance(value, list) else []
    return (
        isinstance(value, str)
        or bool(parts)
        and all(
            isinstance(p, dict) and p.keys() == {"type", "text"} and p["type"] == "text" and isinstance(p["text"], str)
            for p in parts
        )
    )


def encode(model: ServedModel, text: str, field: str) -> list[int]:
    try:
        return model.tokenizer.encode(text)
    except ValueError as error:
        raise ApiError(400, f"{field}: {error}", field) from None


def read_reward_request(body: Mapping[str, Any], models: Mapping[str, ServedModel]) -> tuple[ServedModel, list[int], list[int]]:
    """The model, prompt ids and answer ids of a request for a reward.  Raises ApiError."""
    fields = Fields(body)
    model = read_model(fields, models)
    turns = read_turns(fields)
    fields.refuse_rest()
    if model.reward is None:
        raise ApiError(404, "reward: no reward model judges this model's answers; start the server with --reward", "model")
    if len(turns) < 2 or (turns[-2][0], turns[-1][0]) != ("user", "assistant"):
        raise ApiError(400, "messages: expected a user's message and the assistant's answer last", "messages")
    try:
        return model, *model.reward.rows(model.tokenizer, turns[-2][1], turns[-1][1])
    except ValueError as error:
        raise ApiError(400, str(error), "messages") from None
