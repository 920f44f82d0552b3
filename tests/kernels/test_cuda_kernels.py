"""The emulator runs every CUDA kernel, plain and checked, in three random orders of threads, against float64 NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kernels
from kernels import cases, emulator, gpu
from kernels.adamw import cuda as adamw
from kernels.cross_entropy import cuda as cross_entropy
from kernels.emulator import memory
from kernels.layernorm import cuda as layernorm
from kernels.matmul import cuda as matmul
from kernels.softmax import cuda as softmax

pytestmark = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")
ours = kernels.SETS["emulator"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def precision():
    yield gpu.set_matmul_precision
    gpu.set_matmul_precision("fp32")


@pytest.mark.parametrize("name", gpu.PRECISIONS)
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("checked", [False, True], ids=["plain", "checked"])
def test_every_kernel_against_float64(checked, seed, name, precision):
    precision(name)
    with emulator.settings(checked=checked, seed=seed):
        results = list(cases.check_cases(ours, np.asarray, np.random.default_rng(seed), small=True, precision=name))
    assert len(results) > 50
    assert [r for r in results if not r[1] <= r[2]] == []


def test_tensor_cores_round_their_factors_and_fp32_does_not(precision):
    a, b = normal(40, 64), normal(64, 30, seed=1)
    errors = {}
    for name in gpu.PRECISIONS:
        precision(name)
        errors[name] = cases.error(ours.matmul(a, b), cases.double(a) @ b)
    assert errors["fp32"] < 1e-6 < 1e-5 < errors["tf32"] < 1e-3 < errors["bf16"] < 1e-2


@pytest.mark.parametrize("kernel, bound", [("matmul_fp32", 5e-6), ("matmul_tf32", 1e-3), ("matmul_bf16", 1e-2)])
@pytest.mark.parametrize("M, N, K", [(8, 8, 7), (8, 7, 8), (7, 11, 3), (9, 3, 11)])
def test_slices_whose_last_quad_has_three_numbers(M, N, K, kernel, bound):
    base = normal(16, 16)
    a, b = base[:M, :K], base[:K, :N]
    with emulator.settings(checked=True):
        assert cases.error(matmul.matmul(a, b, kernel=kernel), cases.double(a) @ b) < bound


def test_a_gpu_without_tensor_cores_refuses_their_precisions(precision, monkeypatch):
    monkeypatch.setattr(gpu, "EMULATED", gpu.Device("Tesla T4", 75, 40, 64 << 10))
    a, q = normal(8, 8), normal(1, 1, 20, 16)
    assert cases.error(ours.matmul(a, a), cases.double(a) @ a) < 5e-6
    ours.attention_forward(q, q, q)
    for name in ("tf32", "bf16"):
        precision(name)
        for work in (lambda: ours.matmul(a, a), lambda: ours.attention_forward(q, q, q)):
            with pytest.raises(RuntimeError, match=f'Tesla T4 has compute capability 7.5, .* "{name}" .* "fp32"'):
                work()


def test_heads_too_wide_for_the_shared_memory_are_refused(monkeypatch):
    q = normal(1, 1, 9, 256)
    y, lse = ours.attention_forward(q, q, q)
    with pytest.raises(ValueError, match="backward over heads of 256 numbers needs 283,648 bytes .* has 232,448"):
        ours.attention_backward(q, q, q, q, y, lse)
    monkeypatch.setattr(gpu, "EMULATED", gpu.Device("a small GPU", 89, 40, 99 << 10))
    wide, fits = normal(1, 1, 9, 80), normal(1, 1, 9, 64)
    y, lse = ours.attention_forward(wide, wide, wide)
    with pytest.raises(ValueError, match="heads of 80 numbers needs 103,424 bytes .* a small GPU has 101,376"):
        ours.attention_backward(wide, wide, wide, wide, y, lse)
    y, lse = ours.attention_forward(fits, fits, fits)
    ours.attention_backward(fits, fits, fits, fits, y, lse)


def test_gradients_against_differences():
    errors = dict(cases.check_gradients(ours, np.asarray, np.random.default_rng(0)))
    assert len(errors) == 11 and max(errors.values()) < 1e-3


@pytest.mark.parametrize("shape", [(5, 7, 3), (130, 66, 257), (64, 64, 64), (33, 129, 20)])
@pytest.mark.parametrize("checked", [False, True], ids=["plain", "checked"])
def test_every_rung_of_the_ladder(shape, checked):
    M, N, K = shape
    a, b = normal(M, K), normal(K, N, seed=1)
    expected = cases.double(a) @ b
    with emulator.settings(checked=checked, seed=7):
        for rung in matmul.LADDER:
            assert cases.error(matmul.matmul_rung(rung, a, b), expected) < 5e-6, rung
        for kernel in ("matmul_registers_2d", "matmul_fp32"):
            for ta in (False, True):
                for tb in (False, True):
                    x, y = np.ascontiguousarray(a.T) if ta else a, np.ascontiguousarray(b.T) if tb else b
                    product = matmul.matmul(x, y, transpose_a=ta, transpose_b=tb, kernel=kernel)
                    assert cases.error(product, expected) < 5e-6, (kernel, ta, tb)


def test_the_plain_kernels_agree_with_the_fast_ones():
    x, w, b, targets = normal(9, 70), normal(70), normal(70), np.arange(9)
    assert cases.error(softmax.softmax_plain(x), ours.softmax_forward(x).astype(float)) < 1e-6
    for plain, fast in zip(layernorm.layernorm_plain(x, w, b), ours.layernorm_forward(x, w, b)):
        assert cases.error(plain, fast.astype(float)) < 1e-6
    for plain, fast in zip(cross_entropy.cross_entropy_plain(x, targets), ours.cross_entropy_forward(x, targets)):
        assert cases.error(plain, fast.astype(float)) < 1e-6
    settings: dict[str, Any] = dict(step=2, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    plain_arrays, arrays = ([normal(50, seed=s) for s in range(3)] + [abs(normal(50, seed=3))] for _ in range(2))
    adamw.adamw_plain(*plain_arrays, **settings)
    adamw.adamw_step(*([a] for a in arrays), **settings)
    assert all(np.array_equal(a, b) for a, b in zip(plain_arrays, arrays))


def test_sums_do_not_depend_on_the_order_of_threads():
    """Three orders of blocks and threads give the same bits, so training twice with the same seed gives the same model."""
    ids, dy = np.random.default_rng(0).integers(0, 7, 90), normal(90, 33)
    x, w = normal(90, 36), normal(36)
    q, k, v, dout = (normal(1, 2, 70, 16, seed=s) for s in range(4))
    bits = set()
    for seed in (1, 2, 3):
        with emulator.settings(seed=seed):
            y, lse = ours.attention_forward(q, k, v, causal_offset=0)
            _, mean, rstd = ours.layernorm_forward(x, w)
            results = [
                ours.embedding_backward(dy, ids, 7),
                *ours.layernorm_backward(x, x, w, mean, rstd),
                *ours.attention_backward(dout, q, k, v, y, lse, causal_offset=0),
                ours.matmul(x, x, transpose_a=True),
                ours.global_norm([x, w]),
            ]
        bits.add(b"".join(np.ascontiguousarray(r).tobytes() for r in results))
    assert len(bits) == 1


def test_an_index_out_of_range_raises_on_the_cpu_and_gives_nan_in_the_kernel():
    with pytest.raises(IndexError, match="expected indices in 0…4, got 5$"):
        ours.embedding_forward(normal(5, 3), np.array([0, 5]))
    with pytest.raises(IndexError, match="expected indices in 0…3, got -1$"):
        ours.cross_entropy_forward(normal(2, 4), np.array([-1, 0]))
    y, weight, ids = np.zeros((2, 3), np.float32), normal(5, 3), np.array([1, 99])
    from kernels.embedding.cuda import SOURCE

    with emulator.settings(checked=True):  # as on a GPU, where no check precedes the launch
        SOURCE.launch("embedding_forward", (2,), (32,), weight, ids, y, gpu.i32(5), gpu.i32(3))
    assert np.array_equal(y[0], weight[1]) and np.isnan(y[1]).all()


def test_sizes_of_zero_launch_nothing():
    assert ours.softmax_forward(normal(0, 5)).shape == (0, 5)
    assert ours.gelu_forward(normal(0)).shape == (0,)
    assert ours.embedding_forward(normal(4, 3), np.zeros((0, 2), np.int64)).shape == (0, 2, 3)
    assert not ours.matmul(normal(3, 0), normal(0, 4)).any()
    assert ours.cross_entropy_forward(normal(0, 5), np.zeros(0, np.int64))[0].shape == (0,)


def test_cross_entropy_may_overwrite_its_logits():
    x, targets, dlosses = normal(9, 70), np.arange(9), normal(9, seed=1)
    _, lse = ours.cross_entropy_forward(x, targets)
    dlogits = ours.cross_entropy_backward(dlosses, x, targets, lse)
    assert ours.cross_entropy_backward(dlosses, x, targets, lse, out=x) is x
    assert np.array_equal(x, dlogits)


def test_ignored_rows_are_not_read():
    x, targets = normal(4, 50), np.array([3, -100, 0, -100])
    x[[1, 3]] = np.nan
    losses, lse = ours.cross_entropy_forward(x, targets)
    assert not losses[[1, 3]].any() and np.isfinite(losses).all()
    assert not ours.cross_entropy_backward(np.ones(4, np.float32), x, targets, lse)[[1, 3]].any()


def test_attention_gradients_into_the_parts_of_one_buffer():
    B, H, T, D = 2, 3, 20, 16
    qkv, grads = normal(B, T, 3, H, D), np.full((B, T, 3, H, D), np.nan, np.float32)
    q, k, v = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))
    parts = tuple(grads[:, :, i].swapaxes(1, 2) for i in range(3))
    dout = normal(B, H, T, D, seed=1)
    y, lse = ours.attention_forward(q, k, v, causal_offset=0)
    results = ours.attention_backward(dout, q, k, v, y, lse, causal_offset=0, out=parts)
    expected = cases.reference("attention_backward")(*map(cases.double, (dout, q, k, v, y, lse)), causal_offset=0)
    assert all(r is p for r, p in zip(results, parts)) and cases.error(results, expected) < 5e-6


def test_a_factor_may_stay_on_the_device():
    a, b = normal(100), normal(100)
    adamw.scale_arrays([a], np.array(0.25))
    assert np.array_equal(a, b * np.float32(0.25))


def test_the_sanitizers_few_cases_launch_every_kernel_in_use(precision):
    few = cases.covering(ours, np.asarray, seed=0)
    assert len(few) < 80
    with memory.counting() as traffic:
        for name in gpu.PRECISIONS:
            precision(name)
            results = list(cases.check_cases(ours, np.asarray, np.random.default_rng(0), True, name, few))
            assert results and [r for r in results if not r[1] <= r[2]] == []
    for path in sorted(Path("kernels").glob("*/cuda.cu")):
        names = set(gpu.signatures(path.read_text())) - set(matmul.LADDER)
        in_use = {name for name in names if not name.endswith("_plain") or name == "attention_plain"}
        assert in_use <= set(traffic.launches), in_use - set(traffic.launches)
