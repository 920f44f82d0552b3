"""CPU kernels of RMSNorm, rotary positions and SwiGLU against their float64 references."""

import numpy as np
import pytest

import kernels
from kernels import cases

ours = kernels.SETS["cpu"]
OPERATIONS = ("rms_norm", "rotary", "swiglu")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_case_against_float64(seed):
    checked = 0
    for operation, function, args, kw in cases.cases(np.random.default_rng(seed), small=True):
        if operation in OPERATIONS:
            want = cases.reference(function)(*cases.double(args), **kw)
            assert cases.error(getattr(ours, function)(*args, **kw), want) < 4e-6, cases.describe(function, args, kw)
            checked += 1
    assert checked > 30


@pytest.mark.parametrize("kernel_set", [ours, kernels.SETS["reference"]], ids=repr)
def test_buffers_are_written_to_and_added_to(kernel_set):
    x, dy, w = normal(9, 34), normal(9, 34, seed=1), normal(34, seed=2)
    y, rstd = kernel_set.rms_norm_forward(x, w)
    want_dx, want_dw = kernel_set.rms_norm_backward(dy, x, w, rstd)
    out = np.full_like(x, np.nan), np.ones_like(w)
    dx, dw = kernel_set.rms_norm_backward(dy, x, w, rstd, out=out, accumulate=True)
    assert dx is out[0] and dw is out[1]
    np.testing.assert_array_equal(dx, want_dx)
    np.testing.assert_allclose(dw, want_dw + 1, rtol=1e-6)
    wide = np.full((9, 68), np.nan, np.float32)[:, ::2]
    assert kernel_set.rms_norm_forward(x, w, out=wide)[0] is wide
    np.testing.assert_array_equal(wide, y)
    half = np.full((9, 17), np.nan, np.float32)
    assert kernel_set.swiglu_forward(x, out=half) is half and np.isfinite(half).all()
    np.testing.assert_array_equal(kernel_set.swiglu_backward(half, x, out=x.copy()), kernel_set.swiglu_backward(half, x))


@pytest.mark.parametrize("kernel_set", [ours, kernels.SETS["reference"]], ids=repr)
def test_rotary_in_place_and_back(kernel_set):
    x, angles = normal(2, 3, 5, 8), normal(5, 4, seed=1)
    cos, sin = np.cos(angles), np.sin(angles)
    want = kernel_set.rotary(x, cos, sin)
    np.testing.assert_allclose(kernel_set.rotary(want, cos, sin, inverse=True), x, atol=1e-6)
    same = x.copy()
    assert kernel_set.rotary(same, cos, sin, out=same) is same
    np.testing.assert_array_equal(same, want)


def test_rotary_refuses_angles_of_another_shape():
    x, angles = normal(2, 3, 5, 8), normal(5, 4)
    for cos, sin in ((angles[:4], angles), (angles, angles[:, :3]), (angles.T, angles.T)):
        with pytest.raises(ValueError, match=r"expected (cos|sin) of shape \(5, 4\)"):
            ours.rotary(x, cos, sin)
    with pytest.raises(ValueError, match=r"expected x of shape \(2, 3, 5, 2h\)"):
        ours.rotary(x[..., :7], angles[:, :3], angles[:, :3])


def test_swiglu_far_from_zero():
    x = np.array([[300.0, -300.0, 1e30, -1e30, 2.0, 2.0, 2.0, 2.0]], np.float32)
    np.testing.assert_allclose(ours.swiglu_forward(x), [[600, 0, 2e30, 0]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nothing_is_promoted(dtype):
    x, angles, kernel_set = normal(1, 2, 3, 8).astype(dtype), normal(3, 4).astype(dtype), kernels.SETS["reference"]
    results = [*kernel_set.rms_norm_forward(x, x[0, 0, 0]), kernel_set.swiglu_forward(x), kernel_set.rotary(x, angles, angles)]
    results += [*kernel_set.rms_norm_backward(x, x, x[0, 0, 0], x[..., 0]), kernel_set.swiglu_backward(x[..., :4], x)]
    assert {r.dtype.name for r in results} == {dtype}
