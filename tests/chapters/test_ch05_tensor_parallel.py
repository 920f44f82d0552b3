import math
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn as nn
from chapters import ch05_tensor_parallel as lesson
from chapters.ch05_block import Block
from chapters.ch05_tensor_parallel import ParallelBlock, largest_difference, main, measure, mlp_by_hand, results_of, share
from kernels.collectives import Alone
from kernels.collectives.reference import run
from tests.mpi import mpiexec

ROOT = Path(__file__).parents[2]
STEP = 1e-5  # of central differences


def random_block(C, H, dtype=mg.float64, **settings):
    """A block in which every parameter, norms and biases too, is random."""
    block, generator = Block(C, H, **settings), mg.Generator(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, 0.0, 0.4, generator=generator)
    return block.to(dtype)


def normal(*shape, seed=1, dtype=np.float64):
    return mg.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def reports_of(block, x, dy, ranks):
    return run(ranks, partial(measure, block=block, x=x, dy=dy))


# ── gradients against central differences ────────────────────────────────────────────────────────────────────────────


def parallel_loss(block, x, dy, ranks=2):
    """Σ dy · y, computed by the ranks; also checks that all of them have the same y."""

    def forward(group):
        with mg.no_grad():
            return ParallelBlock(group, block)(x).numpy()

    outputs = run(ranks, forward)
    for y in outputs[1:]:
        np.testing.assert_array_equal(y, outputs[0])
    return float((dy.numpy() * outputs[0]).sum())


def check_gradients(shape, H, ranks=2, entries=3):
    """Compare a few entries of every gradient, on every rank, with central differences through all ranks."""
    B, T, C = shape
    block, x, dy = random_block(C, H), normal(B, T, C), normal(B, T, C, seed=2)
    reports = reports_of(block, x, dy, ranks)
    rng = np.random.default_rng(3)
    arrays = {"input": x.array, **{name: parameter.array for name, parameter in block.named_parameters()}}
    for name, array in arrays.items():
        numbers = np.arange(array.size).reshape(array.shape)
        for rank, report in enumerate(reports):
            grad, own = report.results[name], share(name, numbers, rank, ranks)
            for i in rng.choice(own.size, min(entries, own.size), replace=False):
                place, losses = np.unravel_index(own.flat[i], array.shape), []
                before = array[place]
                for step in (STEP, -STEP):
                    array[place] = before + step
                    losses.append(parallel_loss(block, x, dy, ranks))
                array[place] = before
                numeric = (losses[0] - losses[1]) / (2 * STEP)
                assert abs(grad.flat[i] - numeric) <= 1e-6 * max(1, np.abs(grad).max()), f"{name}{list(place)} on rank {rank}"


@pytest.mark.parametrize("shape, H, ranks", [((2, 5, 12), 4, 2), ((3, 1, 6), 2, 2), ((1, 7, 9), 3, 3)])
def test_gradients_agree_with_central_differences(shape, H, ranks):
    check_gradients(shape, H, ranks)


def test_the_gradient_check_finds_a_missing_all_reduce(monkeypatch):
    monkeypatch.setattr(lesson.CopyToRanks, "backward", staticmethod(lambda ctx, dx: (dx, None)))
    with pytest.raises(AssertionError, match="input"):
        check_gradients((2, 5, 12), 4)


def test_the_gradient_check_finds_an_all_reduce_too_many(monkeypatch):
    def forward(ctx, y, group):
        ctx.save(group)
        return group.all_reduce(y.flatten()).reshape(y.shape)

    monkeypatch.setattr(lesson.SumOverRanks, "forward", staticmethod(forward))
    monkeypatch.setattr(lesson.SumOverRanks, "backward", staticmethod(lesson.CopyToRanks.backward))
    with pytest.raises(AssertionError, match="input"):
        check_gradients((2, 5, 12), 4)


# ── beside the block in one process ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 5e-6)])
@pytest.mark.parametrize("shape, H, ranks", [((3, 5, 8), 2, 1), ((3, 5, 8), 2, 2), ((1, 1, 12), 4, 4), ((9, 40, 24), 4, 4)])
def test_the_ranks_equal_one_process(shape, H, ranks, dtype, tolerance):
    block, x, dy = random_block(shape[-1], H, dtype), normal(*shape, dtype=dtype), normal(*shape, seed=2, dtype=dtype)
    expected = results_of(block, x, dy)
    reports = reports_of(block, x, dy, ranks)
    assert expected["output"].dtype == dtype
    for name, whole in expected.items():
        assert all(report.results[name].dtype == dtype for report in reports)
        assert largest_difference(name, whole, reports) < tolerance, name


def test_a_group_of_one_exchanges_with_nobody():
    block, x, dy = random_block(8, 2), normal(2, 3, 8), normal(2, 3, 8, seed=2)
    report = measure(Alone(), block, x, dy)
    for name, whole in results_of(block, x, dy).items():
        np.testing.assert_allclose(report.results[name], whole, rtol=0, atol=1e-13 * np.abs(whole).max())


def test_copied_parameters_get_the_same_bytes_on_every_rank():
    block, x, dy = random_block(16, 4, mg.float32), normal(3, 5, 16, dtype=np.float32), normal(3, 5, 16, dtype=np.float32)
    reports = reports_of(block, x, dy, 4)
    copied = [name for name in reports[0].results if "." not in name or "ln" in name or name.endswith("c_proj.bias")]
    assert len(copied) == 8
    for name in copied:
        for report in reports[1:]:
            np.testing.assert_array_equal(report.results[name], reports[0].results[name])


def test_training_on_two_ranks_follows_one_process():
    x, target = normal(2, 5, 8), normal(2, 5, 8, seed=2)

    def train(block):
        optimizer = mg.optim.AdamW(block.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            ((block(x) - target) ** 2).mean().backward()
            optimizer.step()
        return {name: parameter.array for name, parameter in block.named_parameters()}

    block = random_block(8, 2)
    trained = run(2, lambda group: train(ParallelBlock(group, block)))
    for name, whole in train(block).items():
        for rank, parameters in enumerate(trained):
            # The bias of the keys has a gradient of 0, so AdamW makes steps of about 1e-11 out of its rounding errors.
            np.testing.assert_allclose(parameters[name], share(name, whole, rank, 2), rtol=1e-9, atol=1e-9)


def test_the_shares_are_whole_heads_and_fill_the_block():
    qkv = np.arange(3 * 8).reshape(24, 1)  # three matrices of four heads of width 2
    assert share("attn.c_attn.weight", qkv, 1, 2).ravel().tolist() == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]
    for name, parameter in random_block(12, 4).named_parameters():
        numbers = np.arange(parameter.numel()).reshape(parameter.shape)
        parts = [share(name, numbers, rank, 4) for rank in range(4)]
        copied = "ln" in name or name.endswith("c_proj.bias")
        together = parts[0] if copied else np.concatenate([part.ravel() for part in parts])
        assert sorted(together.ravel().tolist()) == list(range(numbers.size)), name


@pytest.mark.parametrize("B, T, C, ranks", [(3, 5, 8, 2), (1, 7, 12, 4)])
def test_each_pass_has_two_all_reduces_of_the_whole_stream(B, T, C, ranks):
    block, x = random_block(C, 4, mg.float32), normal(B, T, C, dtype=np.float32)
    for report in reports_of(block, x, x, ranks):
        assert report.forward == report.backward == 2 * [B * T * C * 4]
        assert report.parameters == 12 * C * C // ranks + 7 * C // ranks + 6 * C


def test_the_block_on_ranks_leaves_the_whole_block_as_it_was():
    block = random_block(8, 2)
    before = [parameter.array.copy() for parameter in block.parameters()]

    def change(group):
        for parameter in ParallelBlock(group, block).parameters():
            parameter.array[...] = 0

    run(2, change)
    for parameter, array in zip(block.parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.array, array)


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_columns_then_rows_by_hand(ranks):
    rng = np.random.default_rng(0)
    x, A, B = rng.standard_normal((2, 5, 6)), rng.standard_normal((6, 24)), rng.standard_normal((24, 6))
    z = x @ A
    gelu = z / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    np.testing.assert_allclose(mlp_by_hand(x, A, B, ranks), gelu @ B, rtol=1e-12, atol=1e-12)


# ── mistakes, and the command ────────────────────────────────────────────────────────────────────────────────────────


def test_ranks_that_do_not_divide_the_heads_are_refused():
    with pytest.raises(ValueError, match="^ParallelBlock: expected ranks that divide the 3 heads, got 2; change either$"):
        run(2, lambda group: ParallelBlock(group, Block(12, 3)))
    with pytest.raises(ValueError, match="expected ranks that divide the 4 heads, got 3"):
        main(lesson.Settings(ranks=3))


OTHER_BLOCKS = {
    "dropout": dict(dropout=0.1),
    "no bias": dict(bias=False),
    "fewer heads of keys": dict(n_kv_head=2),
    "rotary": dict(rotary=100.0),
    "RMSNorm": dict(rms_eps=1e-5),
    "SwiGLU": dict(d_gated=16),
}


@pytest.mark.parametrize("settings", OTHER_BLOCKS.values(), ids=OTHER_BLOCKS.keys())
def test_other_blocks_are_refused(settings):
    with pytest.raises(ValueError, match="expected GPT-2's block without dropout"):
        ParallelBlock(Alone(), Block(16, 4, **settings))


def differences_in(output):
    return [float(number) for number in re.findall(r"\d\.\de[-+]\d\d$", output, re.M)]


def test_the_lesson_runs(capsys):
    main(lesson.Settings(d_model=16, texts=3, tokens=5))
    output = capsys.readouterr().out
    assert len(differences_in(output)) == 15 and max(differences_in(output)) < 5e-6
    assert output.count("2 all-reduces forward and 2 backward, 3,840 bytes") == 2
    assert "4 all-reduces of B·T·C·4 bytes, 3,840 bytes in all" in output
    with pytest.raises(ValueError, match="at least 1"):
        main(lesson.Settings(ranks=0))
    with pytest.raises(ValueError, match="--device: expected cpu, got emulator"):
        main(lesson.Settings(device="emulator"))


def test_the_lesson_runs_in_two_processes():
    command = [mpiexec(), "-n", "2", sys.executable, "-m", "chapters.ch05_tensor_parallel", "--d-model", "16"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len(differences_in(done.stdout)) == 15 and max(differences_in(done.stdout)) < 5e-6
    assert done.stdout.count("rank 1: ") == 1
