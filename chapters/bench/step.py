"""Whole training steps beside PyTorch's: time, cost against T and B, peak memory, and time by kernel.

python -m chapters.bench step --preset tiny
"""

import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import kernels
import minigrad as mg
import minigrad.nn.functional as F
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.main_job.first_bend import FULL
from kernels.bench import tasks
from kernels.bench.contest import Task, compete, compete_alone, contestants
from kernels.bench.limits import bound, machine, percent

# A GPT, B and T. "llmc" is how llm.c trains on a CPU (github.com/karpathy/llm.c, train_gpt2.c).
SIZES = {
    "main job": (GPTConfig(FULL.vocab_size, **FULL.model), FULL.pretrain.batch_size, 128),
    "tiny": (GPTConfig.preset("tiny", vocab_size=512), 16, 128),
    "book": (GPTConfig.preset("book", vocab_size=512), 8, 256),
    "gpt2": (GPTConfig.preset("gpt2"), 4, 256),
    "llmc": (GPTConfig.preset("gpt2"), 4, 64),
}
SECONDS = {"main job": 20, "tiny": 20, "book": 60, "gpt2": 60, "llmc": 30}


def random_batch(size: str, B: int, T: int) -> tuple[GPTConfig, np.ndarray, np.ndarray]:
    """A GPT's shape, and token ids: inputs and targets, (B, T) each."""
    config = SIZES[size][0]
    inputs, targets = np.random.default_rng(0).integers(0, config.vocab_size, (2, B, T))
    return config, inputs, targets


class Trainer:
    """Trains a GPT: a step is the loss, its gradients (as a CUDA graph or not), clipping, and AdamW."""

    def __init__(self, model: GPT, graph: bool = False, **adamw: Any):
        self.model = model
        self.optimizer = mg.optim.AdamW(model.parameters(), **adamw)
        self.gradients = mg.graphed(self.loss, model.parameters()) if graph else self.loss_and_gradients

    def loss(self, inputs: mg.Tensor, targets: mg.Tensor) -> mg.Tensor:
        logits = self.model(inputs)  # (B, T, V)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    def loss_and_gradients(self, inputs: mg.Tensor, targets: mg.Tensor) -> mg.Tensor:
        loss = self.loss(inputs, targets)
        loss.backward()
        return loss

    def step(self, inputs: mg.Tensor, targets: mg.Tensor) -> mg.Tensor:
        self.optimizer.zero_grad()
        loss = self.gradients(inputs, targets)
        mg.optim.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss


def our_step(config: GPTConfig, inputs: np.ndarray, targets: np.ndarray, change: Callable[[GPT], None] | None = None):
    """A function that does one training step and returns its loss; `change` adapts the new model first."""
    model = GPT(config, generator=mg.Generator(0))
    if change:
        change(model)
    trainer, x, y = Trainer(model, lr=3e-4), mg.from_numpy(inputs), mg.from_numpy(targets)
    return lambda: trainer.step(x, y).item()


def training_step(library: str, size: str, B: int, T: int) -> Task:
    """The task: a step of ours, of PyTorch, or of PyTorch through torch.compile (the library "compiled").

    A turn is long, since the first steps after a rest take a few percent longer than the later steps.
    """
    batch = random_batch(size, B, T)
    if library == "minigrad":
        return Task(our_step(*batch), turn=1.0)
    tasks.pytorch()
    from chapters.bench.peer_gpt import peer_step  # in PyTorch's process alone

    return Task(peer_step(*batch, compiled=library == "compiled"), turn=1.0)


def product_operations(config: GPTConfig, B: int, T: int) -> int:
    """Operations in the matrix products of a step: per token and weight three multiply-adds, and causal attention."""
    C, L = config.d_model, config.n_layer
    weights = L * 12 * C * C + config.vocab_size * C
    return 6 * B * T * weights + 7 * L * B * T * (T + 1) * C


def time_by_kernel(step: Callable[[], object], steps: int = 5) -> tuple[list[tuple[str, float]], float]:
    """Mean seconds of each kernel in a step, longest first, and of the step, with a clock around every CPU kernel."""
    kernel_set, seconds_in = kernels.SETS["cpu"], defaultdict[str, float](float)
    functions = {name: getattr(kernel_set, name) for names in kernels.OPERATIONS.values() for name in names}

    def timed(name, function):
        def call(*args, **settings):
            begin = time.perf_counter()
            result = function(*args, **settings)
            seconds_in[name] += time.perf_counter() - begin
            return result

        return call

    for name, function in functions.items():
        setattr(kernel_set, name, timed(name, function))
    try:
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        total = time.perf_counter() - begin
    finally:
        for name, function in functions.items():
            setattr(kernel_set, name, function)
    seconds_in["everything else"] = total - sum(seconds_in.values())
    each = [(name, seconds / steps) for name, seconds in seconds_in.items()]
    return sorted(each, key=lambda item: -item[1]), total / steps


def measure_size(size: str, libraries: Sequence[str]) -> None:
    """Print time and memory of one size in every library, then our time by kernel."""
    config, B, T = SIZES[size]
    entries: dict[str, tuple] = {library: (library, training_step, size, B, T) for library in libraries}
    results = compete_alone(entries | {"limit": ("limit", bound, "multiplying")}, SECONDS[size])
    limit = 1 / results.pop("limit")[0]
    batch = random_batch(size, B, T)
    operations = product_operations(config, B, T) / 1e9
    print(
        f"\n{size}: B = {B}, T = {T}, V = {config.vocab_size}; its products alone take {1e3 * operations / limit:.1f} ms "
        f"at the limit in registers, {limit:.0f} GFLOP/s"
    )
    for name, (seconds, peak) in results.items():
        share = percent(operations / seconds, limit, "multiplying")
        ratio = results["minigrad"][0] / seconds
        print(f"  {name:<10}{1e3 * seconds:9.1f} ms   minigrad takes {ratio:5.2f} of this   {share}   {peak:6.0f} MiB")
    step = our_step(*batch)
    for _ in range(2):
        step()
    parts, total = time_by_kernel(step)
    print(f"  minigrad's step by kernel, {1e3 * total:.1f} ms with the clocks:")
    for name, seconds in parts:
        if seconds > 0.005 * total:
            print(f"    {name:<24}{1e3 * seconds:9.1f} ms {100 * seconds / total:5.1f}%", flush=True)


def measure_scaling(libraries: Sequence[str]) -> None:
    """Print how the time of a small step grows with B and T."""
    with contestants(*libraries) as running:
        print(f"\ntiny, ms a step against B and T ({', '.join(running)})")
        for B, T in ((1, 128), (4, 128), (16, 128), (64, 128), (16, 32), (16, 256)):
            times = compete(running, (training_step, "tiny", B, T), 2.0)
            print(f"  B = {B:3}  T = {T:4} " + "".join(f"{1e3 * seconds:9.1f}" for seconds in times.values()), flush=True)


def run(options: Namespace) -> None:
    print(machine())
    libraries = ("minigrad", "torch", "compiled") if options.compile else ("minigrad", "torch")
    for size in options.preset or SIZES:
        measure_size(size, libraries)
    if not options.preset or "tiny" in options.preset:
        measure_scaling(libraries)
