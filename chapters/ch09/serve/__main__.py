"""The command of the server; `chapters/ch09/serve/__init__.py` says what it does."""

import importlib.util
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chapters.ch09.serve.models import READS, Reward, ServedModel, load_served
from chapters.ch09.serve.scheduler import Scheduler
from chapters.support.command import OnDevice, at_least, at_least_one, command

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette


@dataclass
class Settings(OnDevice):
    """Answer many people at a time, in the browser and to programs that speak OpenAI's protocol."""

    model: tuple[str, ...] = ("smollm2",)  # smollm2, .gguf files, published GPT-2s, folders of their files, or run folders
    reward: Path | None = None  # run folder of a reward model, for models tuned in chapter 10's template
    host: str = "127.0.0.1"  # address to listen at; 0.0.0.0: every computer that reaches this one may ask
    port: int = 8000  # port to listen at; 0: any free port
    batch: int = 8  # largest number of texts that a model writes at a time
    queue: int = 32  # largest number of texts that wait for a place
    context: int = 2048  # largest number of tokens of a prompt and its answer; at most the model's own
    int8: bool = False  # 8-bit weights, a quarter of the memory traffic


def main(settings: Settings) -> None:
    at_least_one(settings, "batch", "queue")
    at_least(settings, 2, "context")
    if not settings.model:
        raise ValueError("--model: expected at least one model, got none; add smollm2 or a run folder")
    check_installed("starlette", "uvicorn")
    with listen(settings.host, settings.port) as listener:  # before minutes of loading
        models = load_models(settings)
        scheduler = Scheduler([model.batch for model in models.values()], settings.queue)
        app = build(settings, models, scheduler, partial(print, flush=True))
        for model in models.values():
            print(f"{model.name}: {READS[model.form]}; {model.gpt.num_parameters():,} parameters, context {model.batch.room:,}")
        address = address_of(listener)
        print(f"page: {address}/   endpoint: {address}/v1   Ctrl-C stops", flush=True)
        if not is_loopback(settings.host):
            print(f"{settings.host}: every computer that reaches this one may ask; there is no password and no encryption")
        make_server(app, scheduler).run(sockets=[listener])


def check_installed(*packages: str) -> None:
    """Raise ValueError, with the install command, if a package is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"the server needs {' and '.join(missing)}; pip install -e '.[serve]'")


def load_models(settings: Settings) -> dict[str, ServedModel]:
    """The models by name, each with its reward model if there is one that fits."""
    reward = Reward(settings.reward) if settings.reward else None
    names = dict.fromkeys(settings.model)  # each once
    models = {name: load_served(name, settings.batch, settings.context, settings.int8) for name in names}
    for model in models.values():
        model.reward = reward if reward and reward.fits(model) else None
    if reward and all(model.reward is None for model in models.values()):
        raise ValueError(
            f"--reward: {reward.folder} judges answers in chapter 10's template, and no model here was tuned on that with the "
            "same vocabulary; add --model runs/main/assistant"
        )
    return models


def build(
    settings: Settings, models: dict[str, ServedModel], scheduler: Scheduler, log: Callable[[str], object]
) -> "Starlette":
    """The application for these models."""
    from chapters.ch09.serve.app import make_app
    from chapters.ch09.serve.gate import LOOPBACK

    hosts = LOOPBACK | {settings.host.lower()} if is_loopback(settings.host) else None
    return make_app(models, scheduler, min(settings.batch, settings.queue), hosts, log)


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.  Raises ValueError if the address is not free or not one of this computer."""
    if not 0 <= port < 1 << 16:
        raise ValueError(f"port must be from 0 to 65535, got {port}")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]  # without the address again
        raise ValueError(f"cannot listen at {host}, port {port} ({reason}); choose another with --port or --host") from None


def address_of(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(app: "Starlette", scheduler: Scheduler) -> "uvicorn.Server":
    """A server that runs until Ctrl-C, which ends unfinished answers, too."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, *signal: Any) -> None:
            scheduler.stop()  # else uvicorn would wait for the answers
            super().handle_exit(*signal)

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, ws="none", timeout_graceful_shutdown=1
    )
    return Server(config)


if __name__ == "__main__":
    command(main, Settings, writes=None)
