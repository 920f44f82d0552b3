"""Every operation's backward pass against central differences, and faults that the check must find."""

import numpy as np
import pytest

import kernels
import minigrad as mg
import minigrad.nn.functional as F
from kernels.attention import reference as attention
from kernels.cross_entropy import reference as cross_entropy
from kernels.layernorm import reference as layernorm
from minigrad.gradcases import CASES
from minigrad.gradcheck import GradcheckError, gradcheck, main, measure


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.op}: {c.label}")
@pytest.mark.parametrize("seed", [0, 1])
def test_backward_is_the_derivative(case, seed):
    assert gradcheck(case.function, case.inputs(seed), seed=seed, tolerance=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.op}: {c.label}")
def test_float32_through_the_default_kernels(case):
    assert gradcheck(case.function, case.inputs(2), seed=2, dtype="float32", tolerance=2e-4)


def _plant_fault(monkeypatch, kernel_module, name, spoil):
    """Replace a reference kernel by one whose result is spoiled, in its module and in the kernel set's cache."""
    original = getattr(kernel_module, name)

    def faulty(*args, **kwargs):
        return spoil(original(*args, **kwargs))

    monkeypatch.setattr(kernel_module, name, faulty)
    monkeypatch.setattr(kernels.SETS["reference"], name, faulty, raising=False)


FAULTS = [
    # one element of dk is off by a thousandth; dq is too large by a hundred-thousandth
    (attention, "attention_backward", lambda g: (g[0], g[1] + _bump(g[1]), g[2]), 1, "attention", "causal, T = 35"),
    (attention, "attention_backward", lambda g: (g[0] * 1.00001, g[1], g[2]), 0, "attention", "left padding"),
    # dx is off by a constant; one element of dweight is off
    (layernorm, "layernorm_backward", lambda g: (g[0] + 1e-3, g[1], g[2]), 0, "layer_norm", "(2, 3, 33)"),
    (layernorm, "layernorm_backward", lambda g: (g[0], g[1] + _bump(g[1]), g[2]), 1, "layer_norm", "(2, 3, 33)"),
    # one element is off; the one-hot vector is subtracted at half strength
    (cross_entropy, "cross_entropy_backward", lambda g: g + _bump(g), 0, "cross_entropy", "none"),
    (cross_entropy, "cross_entropy_backward", lambda g: np.where(g < 0, g / 2, g), 0, "cross_entropy", "one row, 129 classes"),
]


def _bump(g):
    bump = np.zeros_like(g)
    bump.flat[g.size // 2] = 1e-3
    return bump


@pytest.mark.parametrize("kernel_module, name, spoil, faulty_input, op, label", FAULTS)
def test_a_planted_fault_is_found(monkeypatch, kernel_module, name, spoil, faulty_input, op, label):
    case = next(c for c in CASES if (c.op, c.label) == (op, label))
    inputs = case.inputs(0)
    assert gradcheck(case.function, inputs)
    _plant_fault(monkeypatch, kernel_module, name, spoil)
    with pytest.raises(GradcheckError, match=f"input {faulty_input}"):
        gradcheck(case.function, inputs)


def test_an_all_ones_upstream_would_miss_a_wrong_softmax():
    """With an upstream gradient of ones, even a backward pass that returns zeros would pass the check."""
    x = mg.tensor(np.random.default_rng(0).standard_normal((3, 5)), requires_grad=True)
    F.softmax(x, -1).sum().backward()
    assert np.abs(x.grad.array).max() < 1e-15


@pytest.mark.parametrize("shape", [(3, 4), (40, 50)])
def test_the_faulty_element_is_named(shape):
    place = (shape[0] - 1, 2)

    class Faulty(mg.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, dy):
            dx = 2 * dy
            dx[place] += 0.5
            return dx

    with pytest.raises(GradcheckError, match=rf"input 0\[{place[0]}, {place[1]}\]"):
        gradcheck(Faulty.apply, [np.random.default_rng(0).standard_normal(shape)])


def test_a_forgotten_gradient_is_wrong():
    class Forgetful(mg.Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save(b)
            return a * b

        @staticmethod
        def backward(ctx, dy):
            return dy * ctx.saved[0], None

    rng = np.random.default_rng(0)
    with pytest.raises(GradcheckError, match="input 1"):
        gradcheck(Forgetful.apply, [rng.standard_normal(3), rng.standard_normal(3)])
    assert gradcheck(lambda a, b: a * 2, [np.ones(2), np.ones(2)])  # no influence, so no gradient


def test_a_nan_gradient_is_wrong():
    class Nan(mg.Function):
        @staticmethod
        def forward(ctx, x):
            return x.copy()

        @staticmethod
        def backward(ctx, dy):
            return dy * np.nan

    for size in (3, 1000):
        with pytest.raises(GradcheckError):
            gradcheck(Nan.apply, [np.ones(size)])


def test_measure_reports_every_input():
    results = measure(lambda a, b: a @ b, [np.ones((2, 3)), np.ones((3, 4))])
    assert [r.input for r in results] == [0, 1] and all(r.error < 1e-9 for r in results)


def test_the_command(capsys, monkeypatch):
    assert main(["--op", "softmax", "--op", "gelu"]) == 0
    out = capsys.readouterr().out
    assert out.count("softmax") == 2 and "4 checks in float64" in out and "all agree" in out
    _plant_fault(monkeypatch, layernorm, "layernorm_backward", lambda g: (g[0] * 1.5, g[1], g[2]))
    assert main(["--op", "layer_norm"]) == 1
    out = capsys.readouterr().out
    assert "WRONG" in out and "input 0[" in out
    with pytest.raises(SystemExit):
        main(["--op", "fourier"])
    assert "there is no operation fourier" in capsys.readouterr().err
