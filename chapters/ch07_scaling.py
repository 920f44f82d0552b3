"""Chapter 7, beyond one machine: what a training step costs on 1 to 1,024 ranks, on a page of paper.

    python -m chapters.ch07_scaling                                  # laptops on Ethernet; draws runs/ch07_scaling
    python -m chapters.ch07_scaling --machine infiniband             # GPUs in a data centre
    mpiexec -n 2 python -m kernels.bench collectives --json machine.json
    python -m chapters.ch07_scaling --machine machine.json           # the machines at hand, measured

`predict_step` needs four numbers: the speed of a rank's arithmetic, the share of it that training reaches, and the latency and
bandwidth of the network. All ranks compute at the same time, and then wait for the sum of their gradients (ch07_ring.py). There
are two ways to add ranks. With *weak scaling* every rank keeps its tokens, so the batch grows. With *strong scaling* the batch
stays, so every rank gets fewer tokens, at least one sequence.

Look at how alike the three models are. Arithmetic and gradients both grow with the parameters, so a model's size cancels. The
tokens of each rank decide, because they multiply only the arithmetic: try `--tokens 1024`. Then look at the rank count from
which a step waits longer than it computes. From there on more than half of every machine is wasted.

Sources: Kaplan et al. 2020 (arXiv:2001.08361), section 2.1, and Narayanan et al. 2021 (arXiv:2104.04473), appendix, for the
arithmetic; Rajbhandari et al. 2020, ZeRO (arXiv:1910.02054), section 3, for the memory.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from chapters.ch06_gpt import GPTConfig, layout
from chapters.ch07_ring import Link, ring_seconds
from chapters.support.command import above, at_least, at_least_one, command
from chapters.support.figures import new_figure, save_figure
from chapters.support.json_files import check_fields, read_object

RANKS = [2**i for i in range(11)]  # 1 to 1,024

SHAPES = {
    "GPT-2": GPTConfig.preset("gpt2"),
    "GPT-2 XL": GPTConfig.preset("gpt2", n_layer=48, n_head=25, d_model=1600),
    "7B": GPTConfig(n_layer=32, n_head=32, d_model=4096, context=4096, vocab_size=50257),
}


class Machine(NamedTuple):
    """One rank's machine, and its way into the network."""

    latency: float  # seconds until an empty message arrives
    bandwidth: float  # bytes per second that a rank sends
    flops: float  # floating-point operations per second of a rank's matrix products


MACHINES = {
    "ethernet": Machine(50e-6, 125e6, 2e11),  # laptops: 1 Gbit/s, and products on four AVX2 cores
    "ethernet10": Machine(20e-6, 1.25e9, 1e12),  # servers: 10 Gbit/s, and products on sixteen AVX-512 cores
    "infiniband": Machine(5e-6, 25e9, 156e12),  # A100 GPUs in TF32, with 200 Gbit/s each as in Narayanan et al., section 5
}


def parameter_count(config: GPTConfig) -> int:
    """Learned numbers of a GPT: about 12 · layers · C² in the blocks, and (V + T) · C in the tables.

    >>> [f"{parameter_count(config) / 1e9:.3f}B" for config in SHAPES.values()]
    ['0.124B', '1.558B', '6.667B']
    """
    return sum(math.prod(shape) for _, shape in layout(config))


def training_flops(config: GPTConfig, tokens: float) -> float:
    """Floating-point operations of a step's forward and backward passes: (6 · parameters + 12 · layers · C · T) · tokens.

    A parameter takes part in a multiplication and an addition for each token, and in twice as many in the backward pass. The
    second term is the attention over T tokens. It counts every pair of tokens, as Narayanan et al. do; Kaplan et al. count only
    the pairs that the causal mask leaves, half as many.
    """
    return (6 * parameter_count(config) + 12 * config.n_layer * config.d_model * config.context) * tokens


class Step(NamedTuple):
    """A predicted training step; all times are in seconds."""

    compute: float  # forward and backward pass
    communication: float  # the sum of the gradients
    waiting: float  # the part of the communication during which a rank computes nothing

    @property
    def seconds(self) -> float:
        """Time of the whole step."""
        return self.compute + self.waiting

    @property
    def efficiency(self) -> float:
        """Share of the step during which a rank computes: the speed of N ranks is N times this share of one rank's speed."""
        return self.compute / self.seconds


def predict_step(
    config: GPTConfig,
    machine: Machine,
    ranks: int,
    tokens: float,
    *,
    overlap: float = 0.0,
    utilization: float = 0.7,
    messages: float = 0,
) -> Step:
    """The time of a training step on equal ranks.

    Args:
        config: the shape of the model; sequences are as long as its context.
        machine: the machine of each rank.
        ranks: N.
        tokens: tokens of one rank in a step.
        overlap: share of the communication that can run during the backward pass, which takes two thirds of the computing:
            0.5 for the reduce_scatter of the gradients, 1 for a whole all_reduce.
        utilization: share of `machine.flops` that forward pass, backward pass and optimizer reach together. In
            chapters/bench/__init__.py matrix products take 63 to 85 % of a step.
        messages: further messages of a step that every rank waits for, too short for more than the latency, such as losses.

    >>> step = predict_step(SHAPES["GPT-2"], MACHINES["ethernet"], ranks=4, tokens=8192)
    >>> f"{step.compute:.1f} s + {step.communication:.1f} s, efficiency {step.efficiency:.0%}"
    '50.3 s + 6.0 s, efficiency 89%'
    """
    compute = training_flops(config, tokens) / (machine.flops * utilization)
    gradient_bytes = 4 * parameter_count(config)
    communication = ring_seconds(gradient_bytes, [Link(machine.latency, machine.bandwidth)] * ranks)
    hidden = min(overlap * communication, compute * 2 / 3)
    return Step(compute, communication, communication - hidden + (messages * machine.latency if ranks > 1 else 0))


def ranks_that_wait(predict: Callable[[int], Step], most: int) -> int | None:
    """The fewest ranks, up to `most`, whose step waits longer than it computes; None if there are none.

    predict: the step on N ranks. Its efficiency must fall as N grows.
    """
    ranks = range(1, most + 1)
    index = bisect_left(ranks, True, key=lambda N: predict(N).efficiency < 0.5)
    return ranks[index] if index < most else None


def memory_bytes(config: GPTConfig, ranks: int, zero: bool) -> float:
    """Bytes that each rank holds: 4 for a parameter, 4 for its gradient, 8 for AdamW's two moments. Activations come on top.

    zero: with ZeRO's first stage each rank holds only its share of the moments.

    >>> [round(memory_bytes(SHAPES["7B"], ranks, zero=True) / 1e9) for ranks in (1, 8, 1024)]  # GB
    [107, 60, 53]
    """
    return parameter_count(config) * (8 + 8 / (ranks if zero else 1))


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings:
    """Predict the time and memory of a training step of three models on 1 to 1,024 ranks."""

    machine: str = "ethernet"  # ethernet, ethernet10, infiniband, or a file from kernels.bench collectives --json
    latency: float | None = None  # seconds until an empty message arrives; None: the machine's
    bandwidth: float | None = None  # bytes per second that a rank sends; None: the machine's
    flops: float | None = None  # floating-point operations per second of a rank's matrix products; None: the machine's
    utilization: float = 0.7  # share of these operations per second that training reaches
    tokens: int = 8192  # tokens of one rank in a step, for weak scaling
    batch: int = 524_288  # tokens of all ranks in a step, for strong scaling
    overlap: float = 0.0  # share of the communication that can run during the backward pass: 0.5 reduce_scatter, 1 all
    run: Path = Path("runs/ch07_scaling")  # folder of the figure


def read_machine(path: Path) -> Machine:
    """The machine that `python -m kernels.bench collectives --json` has measured.  Raises ValueError and OSError."""
    record = read_object(path, "measure the machine again")
    check_fields(record, {"alpha_s": float, "beta_s_per_byte": float, "flops_per_s": float}, str(path))
    if min(record["beta_s_per_byte"], record["flops_per_s"]) <= 0:
        raise ValueError(f"{path}: expected beta_s_per_byte and flops_per_s above 0; measure the machine again")
    return Machine(record["alpha_s"], 1 / record["beta_s_per_byte"], record["flops_per_s"])


def machine_of(settings: Settings) -> Machine:
    """The machine by name or from its file, with the settings that are not None in place of its numbers."""
    if settings.machine not in MACHINES and not Path(settings.machine).is_file():
        raise ValueError(f"machine: expected {', '.join(MACHINES)} or a file, got {settings.machine}")
    machine = MACHINES.get(settings.machine) or read_machine(Path(settings.machine))
    changes = {name: getattr(settings, name) for name in Machine._fields}
    return machine._replace(**{name: value for name, value in changes.items() if value is not None})


def predictions(settings: Settings, config: GPTConfig) -> dict[str, tuple[Callable[[int], Step], int]]:
    """For both ways to add ranks: a function that predicts the step on N ranks, and the most ranks."""
    machine, sequences = machine_of(settings), settings.batch // config.context
    options = dict(overlap=settings.overlap, utilization=settings.utilization)
    return {
        "weak": (lambda N: predict_step(config, machine, N, settings.tokens, **options), RANKS[-1]),
        "strong": (lambda N: predict_step(config, machine, N, settings.batch / N, **options), min(RANKS[-1], sequences)),
    }


def three_digits(number: float) -> str:
    """A number with three significant digits: 174321.0 becomes "174,000"."""
    return f"{float(f'{number:.3g}'):,g}"


def show(settings: Settings, name: str, config: GPTConfig) -> None:
    """Print the table of one model, and the rank count from which a step waits longer than it computes."""
    print(f"\n{name}: {parameter_count(config) / 1e6:,.0f}M parameters, sequences of {config.context:,} tokens")
    print("       weak scaling, seconds          strong scaling, seconds        memory, GB")
    print("ranks  compute     wait  efficiency   compute     wait  efficiency   plain   ZeRO-1")
    steps = predictions(settings, config)
    for N in RANKS:
        columns = [f"{N:5}"]
        for predict, most in steps.values():
            step = predict(N)
            times = f"{three_digits(step.compute):>9}{three_digits(step.waiting):>9}{step.efficiency:12.0%}"
            columns.append(times if most >= N else f"{'less than a sequence a rank':>30}")
        print("".join(columns), *(f"{memory_bytes(config, N, zero) / 1e9:7.1f}" for zero in (False, True)))
    for way, (predict, most) in steps.items():
        first = ranks_that_wait(predict, most)
        when = f"waits longer than it computes from {first} ranks on" if first else "never waits longer than it computes"
        print(f"{way} scaling, up to {most:,} ranks: a step {when}")


def draw(settings: Settings, path: Path) -> Path:
    """Draw the efficiency of all models over the number of ranks."""
    figure, panels = new_figure(10, 4.2, ncols=2, sharey=True)
    tokens = {"weak": f"{settings.tokens:,} tokens on each rank", "strong": f"{settings.batch:,} tokens on all ranks together"}
    for axes, (way, amount) in zip(panels, tokens.items(), strict=True):
        for (name, config), style, colour in zip(SHAPES.items(), ("o-", "s--", "^:"), ("#0072b2", "#d55e00", "#009e73")):
            predict, most = predictions(settings, config)[way]
            ranks = [N for N in RANKS if most >= N]
            axes.plot(ranks, [predict(N).efficiency for N in ranks], style, color=colour, markerfacecolor="none", label=name)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="ranks", title=f"{way} scaling: {amount}", ylim=(0, 1.05))
        axes.set_xticks(RANKS[::2], [f"{N:,}" for N in RANKS[::2]])
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("efficiency (share of a step spent computing)")
    panels[0].legend()
    figure.suptitle(f"Training steps of three models by number of ranks, machine: {Path(settings.machine).name}")
    return save_figure(figure, path)


def main(settings: Settings) -> None:
    machine = machine_of(settings)
    at_least_one(settings, "tokens")
    at_least(settings, max(config.context for config in SHAPES.values()), "batch")
    above(settings, 0, "utilization")
    above(machine, 0, "bandwidth", "flops")
    at_least(machine, 0, "latency")
    if not 0 <= settings.overlap <= 1:
        raise ValueError(f"overlap: expected a share from 0 to 1, got {settings.overlap}")
    latency, bandwidth, flops = map(three_digits, (machine.latency * 1e6, machine.bandwidth / 1e9, machine.flops / 1e9))
    print(f"{settings.machine}: latency {latency} µs, bandwidth {bandwidth} GB/s")
    print(f"matrix products at {flops} GFLOP/s on each rank, training at {settings.utilization:.0%} of that")
    for name, config in SHAPES.items():
        show(settings, name, config)
    print(f"\nfigure: {draw(settings, settings.run / 'figures' / 'efficiency.svg')}")


if __name__ == "__main__":
    command(main, Settings)
