"""Chapter 5, on several processors: tensor parallelism. Each rank holds a share of a block's matrices and computes with it.

Every rank (a process or a thread) has the whole input x, (B, T, C). The matrices are cut:

    MLP          gelu(x A) B = Σ_r gelu(x A_r) B_r, where A (C, 4C) is cut into columns and B (4C, C) into rows
    attention    the same with heads in place of gelu: q, k and v by columns, head by head, and the output matrix by rows
    norms        copied to every rank, as is the residual stream

gelu works on each column by itself, and attention on each head, so the ranks first meet in the sum Σ_r, an all-reduce
(kernels/collectives). The forward pass has two, after attention and after the MLP. The backward pass has two as well.

    python -m chapters.ch05_tensor_parallel                # the ranks are threads of this process
    mpiexec -n 2 python -m chapters.ch05_tensor_parallel   # the ranks are processes

Look at the shapes on each rank, at the differences from the whole block, and at the last table. Data parallelism gives each
rank other texts and adds up all gradients once: about 12 C² numbers per block. Tensor parallelism adds up 4·B·T·C numbers, and
the next matrix product waits for each sum, so it needs fast links. It pays where a model is too large for one processor: the
paper cuts a block among the eight GPUs of one server, and gives other servers other texts.

Source: Shoeybi et al. 2019, "Megatron-LM" (arXiv:1909.08053), section 3.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch05_block import MLP, Block
from chapters.support.command import OnRanks, at_least_one, command
from kernels.collectives import Group
from kernels.collectives.reference import run
from kernels.gelu.reference import gelu_forward
from minigrad import distributed

# ── the idea: columns, then rows ─────────────────────────────────────────────────────────────────────────────────────


def mlp_by_hand(x: np.ndarray, A: np.ndarray, B: np.ndarray, ranks: int) -> np.ndarray:
    """gelu(x A) B, shared out among ranks that work here one after another.

    x: (…, C), A: (C, 4C), B: (4C, C) -> (…, C).  ranks: number of ranks, a divisor of 4C.
    """
    columns = np.split(A, ranks, axis=1)  # (C, 4C / ranks) each
    rows = np.split(B, ranks, axis=0)  # (4C / ranks, C) each
    terms = [gelu_forward(x @ A_r, approximate="tanh") @ B_r for A_r, B_r in zip(columns, rows)]  # (…, C) each
    return np.sum(terms, axis=0)  # (…, C)  the all-reduce


# ── the two operators ────────────────────────────────────────────────────────────────────────────────────────────────


# x_r = x on every rank r. The loss depends on x through every x_r, so dx = Σ_r dx_r.
class CopyToRanks(mg.Function):
    """The paper's f, before the columns: the identity in the forward pass, an all-reduce in the backward pass."""

    @staticmethod
    def forward(ctx: mg.Context, x: Any, group: Group) -> Any:
        ctx.save(group)
        return x

    @staticmethod
    def backward(ctx: mg.Context, dx: Any) -> Any:
        (group,) = ctx.saved
        return group.all_reduce(dx.flatten()).reshape(dx.shape), None  # flatten() copies


# y = Σ_r y_r, so dy_r = dy. Every rank already has dy, because every rank computes the same loss from the same y.
class SumOverRanks(mg.Function):
    """The paper's g, after the rows: an all-reduce in the forward pass, the identity in the backward pass."""

    @staticmethod
    def forward(ctx: mg.Context, y: Any, group: Group) -> Any:
        return group.all_reduce(y.flatten()).reshape(y.shape)

    @staticmethod
    def backward(ctx: mg.Context, dy: Any) -> Any:
        return dy, None


# ── the module: chapter 5's block on several ranks ───────────────────────────────────────────────────────────────────


class ParallelBlock(nn.Module):
    """A rank's share of a transformer block: (B, T, C) -> (B, T, C), with the same input and output on every rank.

    The copied parameters get the same gradient on every rank, so an optimizer keeps the copies equal.

    Args:
        group: the ranks. All of them must run forward and backward together.
        block: chapter 5's block, the same on every rank; its parameters are copied.

    Raises:
        ValueError: if the ranks do not divide the heads, or the block is not GPT-2's without dropout.
    """

    def __init__(self, group: Group, block: Block):
        super().__init__()
        check_block(block, group.size)
        C, N = block.attn.c_proj.out_features, group.size
        self.group, self.n_head = group, block.attn.n_head // N  # H / N, this rank's heads
        self.ln_1, self.ln_2 = (nn.LayerNorm(C, norm.eps) for norm in (block.ln_1, block.ln_2))
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(C, 3 * C // N), "c_proj": nn.Linear(C // N, C)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(C, 4 * C // N), "c_proj": nn.Linear(4 * C // N, C)})
        own = {name: share(name, parameter.array, group.rank, N).copy() for name, parameter in block.named_parameters()}
        self.load_state_dict({name: mg.Tensor(array) for name, array in own.items()}, assign=True)

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        B, T, _ = x.shape
        normal = CopyToRanks.apply(self.ln_1(x), self.group)  # (B, T, C)
        qkv = self.attn.c_attn(normal).view(B, T, 3 * self.n_head, -1).transpose(1, 2)  # (B, 3H/N, T, D)
        q, k, v = qkv.split(self.n_head, dim=1)  # (B, H/N, T, D) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H/N, T, D)
        x = x + self.sum_of_rows(self.attn.c_proj, y.transpose(1, 2).reshape(B, T, -1))  # (B, T, C)
        normal = CopyToRanks.apply(self.ln_2(x), self.group)  # (B, T, C)
        return x + self.sum_of_rows(self.mlp.c_proj, self.mlp.c_fc(normal, activation="gelu_tanh"))  # (B, T, C)

    def sum_of_rows(self, layer: nn.Linear, x: mg.Tensor) -> mg.Tensor:
        """A layer whose matrix is cut by rows: (B, T, this rank's inputs) -> (B, T, C)."""
        return SumOverRanks.apply(F.linear(x, layer.weight), self.group) + layer.bias  # the bias once, not once per rank


def share(name: str, array: Any, rank: int, N: int) -> Any:
    """The part that rank `rank` of N holds of a parameter of chapter 5's block, or of its gradient: a view.

    nn.Linear computes x Wᵀ, so the columns of the paper's matrices are rows of ours, and its rows are our columns.
    """
    rest = array.shape[1:]
    if name.startswith("attn.c_attn"):  # (3C, …): q, k and v one below the other, and in each of them its heads
        return array.reshape(3, N, -1, *rest)[:, rank].reshape(-1, *rest)  # (3C/N, …)
    if name.startswith("mlp.c_fc"):  # (4C, …)
        return array.reshape(N, -1, *rest)[rank]  # (4C/N, …)
    if name.endswith("c_proj.weight"):  # (C, C) or (C, 4C)
        return array.reshape(len(array), N, -1)[:, rank]  # (C, C/N) or (C, 4C/N)
    return array  # copied: the norms, and the biases that are added after a sum


def check_block(block: Block, ranks: int) -> None:
    """Raise ValueError unless `ranks` ranks can share the block."""
    attention, mlp = block.attn, block.mlp
    gpt2s = type(block.ln_1) is nn.LayerNorm and type(mlp) is MLP and attention.c_attn.bias is not None
    if not gpt2s or attention.rotary or attention.n_kv_head < attention.n_head or attention.dropout or mlp.dropout.p:
        raise ValueError("ParallelBlock: expected GPT-2's block without dropout, got another; pass Block(d_model, n_head)")
    if attention.n_head % ranks:  # ranks that divide the heads also divide the width, n_head · D
        raise ValueError(f"ParallelBlock: expected ranks that divide the {attention.n_head} heads, got {ranks}; change either")


# ── the experiment: the ranks beside the whole block ─────────────────────────────────────────────────────────────────


class CountingGroup(Group):
    """A group that notes the bytes of each all-reduce, separately for the forward and the backward pass."""

    def __init__(self, group: Group):
        self.group, self.rank, self.size = group, group.rank, group.size
        self.forward: list[int] = []
        self.backward: list[int] = []

    def all_reduce(self, array: Any, in_order: bool = True) -> Any:
        (self.forward if mg.is_grad_enabled() else self.backward).append(array.nbytes)  # backward() runs under no_grad
        return self.group.all_reduce(array, in_order)


class Report(NamedTuple):
    """One rank's measurements."""

    parameters: int  # numbers that the rank holds
    results: dict[str, np.ndarray]  # see results_of
    forward: list[int]  # bytes of each all-reduce
    backward: list[int]  # bytes of each all-reduce


def results_of(block: nn.Module, x: mg.Tensor, dy: mg.Tensor) -> dict[str, np.ndarray]:
    """Run a block: its output, and the gradients of its input and parameters, by name.  x, dy: (B, T, C)."""
    leaf = x.detach().requires_grad_(True)
    y = block(leaf)  # (B, T, C)
    y.backward(dy)
    grads = {name: parameter.grad.numpy() for name, parameter in block.named_parameters()}
    return {"output": y.numpy(force=True), "input": leaf.grad.numpy(), **grads}


def measure(group: Group, block: Block, x: mg.Tensor, dy: mg.Tensor) -> Report:
    """Run this rank's share of the block.  x, dy: (B, T, C)."""
    counting = CountingGroup(group)
    parallel = ParallelBlock(counting, block)
    parameters = sum(parameter.numel() for parameter in parallel.parameters())
    return Report(parameters, results_of(parallel, x, dy), counting.forward, counting.backward)


def largest_difference(name: str, whole: np.ndarray, reports: list[Report]) -> float:
    """The largest difference of any rank's result from its share of the whole block's, over the largest entry."""
    gaps = [np.abs(report.results[name] - share(name, whole, r, len(reports))).max() for r, report in enumerate(reports)]
    return float(max(gaps) / np.abs(whole).max())


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(OnRanks):
    """Share a block out to several ranks, and compare its output and gradients with the whole block's."""

    ranks: int = 2  # threads that share the block (under mpiexec, its processes share it)
    d_model: int = 64  # width of the residual stream
    n_head: int = 4  # heads
    texts: int = 4  # texts in the batch
    tokens: int = 16  # tokens of each text
    seed: int = 0  # random seed


def print_reports(reports: list[Report], expected: dict[str, np.ndarray]) -> None:
    """Print what the ranks hold, how far they are from the whole block, and what they add up."""
    B, T, C = expected["output"].shape
    print(f"{'':20} {'whole block':>12} {'each rank':>12}   largest difference, over the largest entry")
    for name, whole in expected.items():
        shapes = f"{str(whole.shape):>12} {str(reports[0].results[name].shape):>12}"
        print(f"{name:20} {shapes}   {largest_difference(name, whole, reports):.1e}")
    for rank, (parameters, _, forward, backward) in enumerate(reports):
        sums = f"{len(forward)} all-reduces forward and {len(backward)} backward"
        print(f"rank {rank}: {parameters:,} parameters; {sums}, {sum(forward + backward):,} bytes")
    print(f"by the formula: 4 all-reduces of B·T·C·4 bytes, {4 * B * T * C * 4:,} bytes in all\n")
    print(f"{'numbers added up per block and step':40} tensor parallel   data parallel")
    for name, tokens, width in (("this block", B * T, C), ("GPT-2 (124M), 8 texts of 1,024 tokens", 8192, 768)):
        print(f"{name:40} {4 * tokens * width:15,} {12 * width**2 + 13 * width:15,}")


def main(settings: Settings) -> None:
    at_least_one(settings, "ranks", "d_model", "n_head", "texts", "tokens")
    group = distributed.current().group  # under mpiexec, its processes
    if settings.device != "cpu":
        raise ValueError(f"--device: expected cpu, got {settings.device}; this lesson compares ranks on the CPU")
    ranks = settings.ranks if group.size == 1 else group.size
    mg.manual_seed(settings.seed)
    block = Block(settings.d_model, settings.n_head)
    check_block(block, ranks)
    x, dy = (mg.randn(settings.texts, settings.tokens, settings.d_model) for _ in range(2))  # (B, T, C) each
    A, B = (layer.weight.numpy(force=True).T for layer in (block.mlp.c_fc, block.mlp.c_proj))
    alone, together = (mlp_by_hand(x.numpy(), A, B, n) for n in (1, ranks))
    print(f"by hand, {ranks} ranks against 1: largest difference {np.abs(together - alone).max():.1e}\n")
    on_each_rank = partial(measure, block=block, x=x, dy=dy)
    reports = run(ranks, on_each_rank) if group.size == 1 else group.gather_objects(on_each_rank(group))
    print_reports(reports, results_of(block, x, dy))


if __name__ == "__main__":
    command(main, Settings)
