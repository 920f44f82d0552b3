"""Check a machine with a GPU: kernels/check.py's steps, and whole training steps of a GPT.

    python -m chapters.bench gpu --device cuda --out DIR

The command checks the results and gradients of every kernel. It trains the book's GPT for 30 steps, whose losses must match the
CPU's, and repeats them as a CUDA graph. Then it times kernels and whole steps, beside PyTorch's eager and compiled steps.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
from chapters.bench.step import Trainer
from chapters.ch06_gpt import GPT, GPTConfig
from kernels import check, gpu
from kernels.bench.gpu_kernels import milliseconds, on_default_stream, torch_on_gpu
from kernels.check import Check

CONFIGS = {
    "book": GPTConfig.preset("book", vocab_size=4096),
    "gpt2": GPTConfig.preset("gpt2"),
    "tiny": GPTConfig.preset("tiny", context=128, vocab_size=512),  # launching its kernels takes longer than running them
    "small": GPTConfig(vocab_size=61, context=24, n_layer=2, n_head=2, d_model=32),  # for the emulator
}
ADAMW: dict[str, Any] = dict(lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
LOSS_TOLERANCE = 1e-3
COMPILED_BY = 400  # seconds from the start; no PyTorch model is compiled later, since a model can take a minute


class Size(NamedTuple):
    """The size of a training step."""

    preset: str
    batch: int


SIZES = (Size("book", 32), Size("gpt2", 8), Size("tiny", 16))


def new_trainer(preset: str, device: str, graph: bool) -> Trainer:
    return Trainer(GPT(CONFIGS[preset], mg.Generator(0)).to(device), graph, **ADAMW)


def sorted_batch(preset: str, device: str, size: int, step: int) -> list[mg.Tensor]:
    """Inputs and targets, (size, context) each. Sorted ids can be learned: the next id is a little larger."""
    config = CONFIGS[preset]
    ids = np.random.default_rng(step).integers(0, config.vocab_size, (size, config.context + 1))
    ids = np.sort(ids, axis=1)
    return [mg.from_numpy(np.ascontiguousarray(a)).to(device) for a in (ids[:, :-1], ids[:, 1:])]


def losses(preset: str, device: str, steps: int, batch: int, graph: bool = False) -> list[float]:
    """The losses of the first training steps."""
    trainer = new_trainer(preset, device, graph)
    return [float(trainer.step(*sorted_batch(preset, device, batch, i)).item()) for i in range(steps)]


def training(check: Check) -> None:
    """Compare the losses of training steps with the CPU's, then with the losses of the same steps as a CUDA graph."""
    report = check.report
    preset, steps, batch = ("small", 5, 2) if check.emulated else ("book", 30, 4)
    on_device, on_cpu = (losses(preset, device, steps, batch) for device in (check.device, "cpu"))
    difference = float(np.abs(np.subtract(on_device, on_cpu)).max())
    name = f"{steps} steps of {preset}"
    report.add("training", f"{name}, first and last loss", [on_device[0], on_device[-1]])
    report.add("training", f"{name}, largest difference", difference, failed=not difference <= LOSS_TOLERANCE)
    report.note(f"{name}: loss {on_device[0]:.3f} to {on_device[-1]:.3f}, at most {difference:.1e} from the CPU's")
    graph_losses = losses(preset, check.device, steps, batch, graph=True)
    difference = float(np.abs(np.subtract(graph_losses, on_device)).max())
    label = f"{name} as a graph, largest difference from those without"
    report.add("training", label, difference, failed=not difference <= LOSS_TOLERANCE)
    report.note(f"{name} as a graph: at most {difference:.1e} from the losses without a graph")


def training_speed(check: Check) -> None:
    """Time whole training steps beside PyTorch's. Graphs come last, so that their failure costs no other figure."""
    sizes = (Size("small", 2),) if check.small else SIZES
    measure_ours(check, sizes, graph=False)
    if not check.small and torch_on_gpu() is not None:
        measure_torch(check, sizes, compiled=False)
    small_sizes = [size for size in sizes if size.preset != "gpt2"]  # gpt2's launches take almost no time
    measure_ours(check, small_sizes, graph=True)


def measure_ours(check: Check, sizes: Sequence[Size], graph: bool) -> None:
    for precision in ("fp32",) if check.small else gpu.PRECISIONS:
        for preset, batch in sizes:
            label = f"{preset}, batch {batch}, {precision}{', as a graph' if graph else ''}"
            row = step_time(check, preset, batch, precision, graph)
            check.report.add("steps", f"ours, {label}", row)
            check.report.note(f"step of {label}: {row['ms']:.1f} ms")
            if not check.emulated:
                check.xp.get_default_memory_pool().free_all_blocks()


def step_time(check: Check, preset: str, batch: int, precision: str, graph: bool) -> dict[str, float]:
    trainer = new_trainer(preset, check.device, graph)
    inputs, targets = sorted_batch(preset, check.device, batch, 0)
    gpu.set_matmul_precision(precision)
    try:
        for _ in range(2 * graph):  # the first step runs as usual, the second is recorded
            trainer.step(inputs, targets)
        begin = time.perf_counter()
        ms = milliseconds(check.xp, lambda: trainer.step(inputs, targets), 10)
        tokens = batch * CONFIGS[preset].context
        return {"ms": ms, "tokens_per_s": tokens / ms * 1e3, "seconds": time.perf_counter() - begin}
    finally:
        gpu.set_matmul_precision("fp32")


def compiled_speed(check: Check) -> None:
    """Time PyTorch's steps through torch.compile until COMPILED_BY."""
    if not check.small and torch_on_gpu() is not None:
        measure_torch(check, SIZES, compiled=True)


def measure_torch(check: Check, sizes: Sequence[Size], compiled: bool) -> None:
    kind, torch, report = "compiled" if compiled else "eager", torch_on_gpu(), check.report
    for precision in gpu.PRECISIONS:
        for preset, batch in sizes:
            name = f"PyTorch {kind}, {preset}, batch {batch}, {precision}"
            if compiled and time.perf_counter() - report.begin > COMPILED_BY:
                report.add("steps", name, "not measured: out of time")
                continue
            try:
                report.add("steps", name, torch_step_time(check.xp, torch, preset, batch, precision, compiled))
            except Exception as error:  # no compiler, or no memory: the table says so, and the measuring goes on
                report.add("steps", name, f"{type(error).__name__}: {str(error)[:200]}")
            torch.cuda.empty_cache()
    report.note(f"PyTorch {kind} steps timed")


def torch_step_time(xp, torch, preset: str, batch: int, precision: str, compiled: bool) -> dict[str, float]:
    from chapters.bench.peer_gpt import PeerGPT, torch_step

    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    config = CONFIGS[preset]
    model = PeerGPT(config).cuda()
    ids = torch.randint(0, config.vocab_size, (batch, config.context + 1), device="cuda")

    def autocast():
        return torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16")

    forward = torch.compile(model) if compiled else model
    step = torch_step(model, forward, ids[:, :-1], ids[:, 1:], autocast, **ADAMW)
    ms = milliseconds(xp, on_default_stream(torch, step))
    torch.backends.cuda.matmul.allow_tf32 = False
    return {"ms": ms, "tokens_per_s": batch * config.context / ms * 1e3}


STEPS = {
    "correct": check.correct,
    "gradients": check.gradients,
    "training": training,
    "speed": check.speed,
    "steps": training_speed,
    "sanitize": check.sanitize,
    "compiled": compiled_speed,
}


def main(arguments: Sequence[str]) -> None:
    check.main(STEPS, "python -m chapters.bench gpu", arguments)
