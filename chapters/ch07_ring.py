"""Chapter 7, beyond one machine: processes in a ring add up their arrays, and each of them sends equally little.

    python -m chapters.ch07_ring              # prints every step, and draws runs/ch07_ring/figures/bytes.svg

In data-parallel training, each of N processes (*ranks*) computes the gradient of its own rows, and every rank needs the sum of
all gradients: an all_reduce. The plainest way is `all_reduce_at_root`. Every rank sends its array to rank 0, which adds up the
arrays and sends the sum back. Rank 0 then sends N − 1 whole arrays, while the other ranks wait.

`all_reduce_in_a_ring` shares that work. A rank only sends to its right neighbour, and each array is cut into N parts:

    reduce-scatter, N − 1 steps    each rank sends one part to its right neighbour, which adds its own numbers
    all-gather, N − 1 steps        each rank sends one finished part to its right neighbour, which stores it

Look at the tables, where rank 0 holds a, rank 1 holds b, and so on; bca is the sum (b + c) + a. Every part is added in another
order. Floating-point sums depend on their order, so a ring's last digits depend on the number of ranks. Our training therefore
uses `all_reduce_in_order`, which sends the same bytes and adds every part from rank 0 to the last rank.

Source: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations" (JPDC 69).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from chapters.support.command import above, at_least, command
from chapters.support.figures import new_figure, save_figure
from kernels.collectives.reference import run


def all_reduce_at_root(arrays: list[np.ndarray]) -> list[int]:
    """Overwrite the array of every rank with the sum of all arrays, by way of rank 0.

    arrays: N arrays (n,), one for each rank.  Returns the bytes that each rank sends, (N,), as do the others here.
    """
    sent = [0] * len(arrays)
    total = arrays[0].copy()
    for rank, array in enumerate(arrays[1:], 1):  # every rank sends its array to rank 0
        total = total + array
        sent[rank] += array.nbytes
    arrays[0][:] = total
    for array in arrays[1:]:  # rank 0 sends the sum to every rank
        array[:] = total
        sent[0] += total.nbytes
    return sent


def all_reduce_in_a_ring(arrays: list[np.ndarray]) -> Iterator[tuple[str, list[int]]]:
    """Overwrite the array of every rank with the sum of all arrays, in 2(N − 1) steps.

    Args:
        arrays: N arrays (n,), one for each rank; rank r's right neighbour is rank r + 1, and rank 0 follows the last rank.

    Yields:
        After each step, its phase and the bytes that each rank has sent in it, (N,).

    >>> arrays = [np.array([letter] * 3, object) for letter in "abc"]
    >>> for phase, _ in all_reduce_in_a_ring(arrays):
    ...     print(f"{phase:<16}", *(" ".join(array) for array in arrays), sep=" | ")
    reduce-scatter   | a a ca | ab b b | c bc c
    reduce-scatter   | a bca ca | ab b cab | abc bc c
    all-gather       | abc bca ca | ab bca cab | abc bc cab
    all-gather       | abc bca cab | abc bca cab | abc bca cab
    """
    N = len(arrays)
    parts = [np.array_split(array, N) for array in arrays]  # parts[rank][i]: a view of about n/N numbers
    for step in range(N - 1):
        messages = [parts[rank][(rank - step) % N].copy() for rank in range(N)]  # all ranks send at the same time
        for rank, message in enumerate(messages):
            own = parts[(rank + 1) % N][(rank - step) % N]
            np.add(message, own, out=own)
        yield "reduce-scatter", [message.nbytes for message in messages]
    for step in range(N - 1):
        messages = [parts[rank][(rank + 1 - step) % N].copy() for rank in range(N)]
        for rank, message in enumerate(messages):
            parts[(rank + 1) % N][(rank + 1 - step) % N][:] = message
        yield "all-gather", [message.nbytes for message in messages]


def all_reduce_in_order(arrays: list[np.ndarray]) -> list[int]:
    """Overwrite the array of every rank with the sum of all arrays, added from rank 0 to the last rank.

    Every rank sends part i of its array straight to rank i, which adds them up in order and sends the sum to all. These are the
    ring's messages in number and size, and no message waits for a sum on another rank. In return each rank exchanges parts with
    all ranks, not only with its neighbours, and holds N parts before it adds.
    """
    N = len(arrays)
    parts = [np.array_split(array, N) for array in arrays]
    sent = [0] * N
    for i in range(N):  # what rank i does; all ranks do it at the same time
        total = parts[0][i].copy()
        for rank in range(1, N):
            total = total + parts[rank][i]
        for rank in range(N):
            if rank != i:
                sent[rank] += parts[rank][i].nbytes  # its part i, to rank i
                sent[i] += total.nbytes  # the sum, back to it
            parts[rank][i][:] = total
    return sent


# ── the formulas ─────────────────────────────────────────────────────────────────────────────────────────────────────


def root_bytes(ranks: int, array_bytes: float) -> float:
    """Bytes that rank 0 sends, and receives, if it adds all arrays: (N − 1) n."""
    return (ranks - 1) * array_bytes


def ring_bytes(ranks: int, array_bytes: float) -> float:
    """Bytes that each rank of a ring sends: 2(N − 1) parts of n/N, less than 2n on any number of ranks.

    In every all_reduce some rank sends at least as many: this is the lower bound of Patarasuk and Yuan.
    """
    return 2 * (ranks - 1) / ranks * array_bytes


def in_order_bytes(ranks: int, array_bytes: float, terms: int = 1) -> float:
    """Bytes that each rank sends to add up in order: (N − 1)/N · n for each of its terms, and as many for the sum.

    terms: summands of each rank, which travel one by one; a rank that added its own terms first would change the order.
    """
    return (terms + 1) * (ranks - 1) / ranks * array_bytes


class Link(NamedTuple):
    """The way from a rank to its right neighbour."""

    latency: float  # seconds until an empty message arrives, α
    bandwidth: float  # bytes per second; the formulas' β is 1 / bandwidth


def ring_seconds(array_bytes: float, links: Sequence[Link]) -> float:
    """Seconds of an all_reduce in a ring: 2(N − 1)(α + n/N · β) on equal links.

    2(N − 1) parts cross every link, one after the other. So the slowest link sets the time of the whole ring.

    >>> fast, slow = Link(latency=0.0, bandwidth=100.0), Link(latency=0.0, bandwidth=10.0)
    >>> ring_seconds(400.0, [fast, fast, fast, fast]), ring_seconds(400.0, [fast, fast, slow, fast])
    (6.0, 60.0)
    """
    N = len(links)
    return 2 * (N - 1) * max(link.latency + array_bytes / N / link.bandwidth for link in links)


def root_seconds(array_bytes: float, link: Link, ranks: int) -> float:
    """Seconds of an all_reduce at rank 0, whose link carries all arrays one after the other, first in and then out."""
    return 2 * (ranks - 1) * (link.latency + array_bytes / link.bandwidth)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings:
    """Add up the arrays of several ranks in a ring, step by step, and count the bytes that each rank sends."""

    ranks: int = 4  # ranks in the ring, 2 to 8
    numbers: int = 1_000_000  # float32 numbers in the array of each rank
    latency: float = 50e-6  # seconds until an empty message arrives; 1 Gbit/s Ethernet has about 50e-6
    bandwidth: float = 125e6  # bytes per second of a link; 1 Gbit/s are 125e6
    run: Path = Path("runs/ch07_ring")  # folder of the figure
    seed: int = 0  # random seed of the numbers


def show_steps(ranks: int) -> None:
    """Print which arrays each part is the sum of, on every rank, after each step."""
    arrays = [np.array([letter] * ranks, object) for letter in "abcdefgh"[:ranks]]  # adding texts writes them side by side
    print("rank  " + "".join(f"part {i:<{ranks - 1}}" for i in range(ranks)).rstrip())
    for number, (phase, _) in enumerate(all_reduce_in_a_ring(arrays), 1):
        print(f"step {number}, {phase}")
        for rank, array in enumerate(arrays):
            print(f"{rank:4}  " + "".join(f"{held:<{ranks + 4}}" for held in array).rstrip())


def compare(arrays: list[np.ndarray]) -> None:
    """Print the bytes that each rank sends in three ways to the same sum, and how the sums differ."""
    N, n = len(arrays), arrays[0].nbytes
    at_root, ring, in_order = ([array.copy() for array in arrays] for _ in range(3))
    steps = [sent for _, sent in all_reduce_in_a_ring(ring)]
    lines = [
        ("at rank 0", 2 * (N - 1), all_reduce_at_root(at_root), "(N − 1) n at rank 0", root_bytes(N, n)),
        ("in a ring", len(steps), np.sum(steps, axis=0), "2(N − 1)/N · n", ring_bytes(N, n)),
        ("in order", 2, all_reduce_in_order(in_order), "2(N − 1)/N · n", in_order_bytes(N, n)),
    ]
    print(f"\nMB that each rank sends, for N = {N} arrays of n = {n / 1e6:g} MB")
    print("           steps  " + "".join(f"{f'rank {rank}':>8}" for rank in range(N)) + "   by the formula")
    for name, count, sent, formula, value in lines:
        print(f"{name:<11}{count:5}  " + "".join(f"{each / 1e6:8.2f}" for each in sent) + f"   {formula} = {value / 1e6:.2f}")

    threads = run(N, lambda group: group.all_reduce(arrays[group.rank].copy()))
    print("\nbeside all_reduce of kernels.collectives, with a thread for each rank:")
    for name, sums in (("in a ring", ring), ("in order", in_order)):
        differences = np.abs(np.subtract(sums, threads))
        print(f"{name:<11}{np.mean(differences > 0):4.0%} of the sums differ, by up to {differences.max():.1e}")


def show_times(array_bytes: float, link: Link, ranks: int) -> None:
    """Print the seconds of an all_reduce, and the price of one slow link."""
    slow = Link(link.latency, link.bandwidth / 10)
    times = {
        "in a ring": ring_seconds(array_bytes, [link] * ranks),
        "in a ring with one link a tenth as fast": ring_seconds(array_bytes, [slow] + [link] * (ranks - 1)),
        "at rank 0": root_seconds(array_bytes, link, ranks),
    }
    print(f"\nms on links of {link.bandwidth / 1e6:g} MB/s with {link.latency * 1e6:g} µs of latency")
    for name, seconds in times.items():
        print(f"{seconds * 1e3:10.1f}  {name}")


def draw(path: Path) -> Path:
    """Draw the bytes that the busiest rank sends, over the number of ranks."""
    figure, axes = new_figure()
    ranks = list(range(2, 17))
    lines = [
        ("at rank 0", "s-", "#d55e00", [root_bytes(N, 1) for N in ranks]),
        ("in order,\n4 terms a rank", "^-", "#009e73", [in_order_bytes(N, 1, terms=4) for N in ranks]),
        ("in a ring; in order,\n1 term a rank", "o-", "#0072b2", [ring_bytes(N, 1) for N in ranks]),
    ]
    for name, style, colour, sent in lines:
        axes.plot(ranks, sent, style, color=colour, markersize=4)
        axes.text(16.3, sent[-1], name, va="center", fontsize=8, color=colour)
    axes.set(xlabel="ranks", ylabel="sent by the busiest rank (array sizes)", xlim=(1.5, 20.5), ylim=(0, 16))
    axes.set_xticks(range(2, 17, 2))
    axes.set_title("An all_reduce at one rank, in a ring and in a fixed order")
    axes.grid(alpha=0.3)
    return save_figure(figure, path)


def main(settings: Settings) -> None:
    at_least(settings, 2, "ranks")
    if settings.ranks > 8:
        raise ValueError(f"ranks: expected at most 8, got {settings.ranks}; the tables of more do not fit on a screen")
    at_least(settings, settings.ranks, "numbers")
    at_least(settings, 0, "latency")
    above(settings, 0, "bandwidth")
    show_steps(settings.ranks)
    rng = np.random.default_rng(settings.seed)
    compare([rng.standard_normal(settings.numbers, np.float32) for _ in range(settings.ranks)])
    show_times(4 * settings.numbers, Link(settings.latency, settings.bandwidth), settings.ranks)
    print(f"figure: {draw(settings.run / 'figures' / 'bytes.svg')}")


if __name__ == "__main__":
    command(main, Settings)
