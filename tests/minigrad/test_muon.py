"""Muon against its definition by singular values, and against PyTorch's, which iterates in bfloat16."""

from typing import Any

import numpy as np
import pytest

import minigrad as mg
from kernels import emulator
from minigrad.optim import muon
from minigrad.optim.muon import NEWTON_SCHULZ, orthogonalize

SHAPES = [(8, 8), (5, 12), (12, 5), (1, 7), (64, 33)]


def by_singular_values(matrix, steps=5):
    """The result of `orthogonalize` for one matrix, from its singular value decomposition."""
    a, b, c = NEWTON_SCHULZ
    u, s, vt = np.linalg.svd(matrix / max(np.linalg.norm(matrix), 1e-7), full_matrices=False)
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return u * s @ vt


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 2e-4)])
def test_only_the_singular_values_change(shape, dtype, tolerance):
    matrices = np.random.default_rng(0).standard_normal((3, *shape)).astype(dtype)
    result = orthogonalize(matrices)
    for matrix, made in zip(matrices, result, strict=True):
        assert made.dtype == dtype
        np.testing.assert_allclose(made, by_singular_values(matrix.astype(np.float64)), atol=tolerance)


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 9])
def test_matrices_of_many_shapes_iterate_together(steps):
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal(shape) for shape in [*SHAPES, (12, 5), (64, 70)]]
    for matrix, made in zip(matrices, orthogonalize(matrices, steps), strict=True):
        np.testing.assert_allclose(made, by_singular_values(matrix, steps), atol=1e-12)


def test_rounding_does_not_grow_in_matrices_of_low_rank():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((64, 3)) @ rng.standard_normal((3, 200))
    made = orthogonalize([matrix.astype(np.float32)], 9)[0]  # without a new G after five steps, the error would be above 100
    np.testing.assert_allclose(made, by_singular_values(matrix, 9), atol=1e-2)


def test_no_matrices_give_no_results():
    assert orthogonalize([]) == []


def test_singular_values_that_differ_by_a_factor_of_100_come_close_to_1():
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((8, 8)))[0] for _ in range(2))
    made = orthogonalize([u * np.geomspace(0.01, 1, 8) @ v])[0]
    singular_values = np.linalg.svd(made, compute_uv=False)
    assert 0.68 < singular_values.min() and singular_values.max() < 1.21


def test_zeros_stay_zero():
    assert not np.any(orthogonalize(np.zeros((2, 3, 4), np.float32)))


MIXED_SHAPES = [(6, 9), (9, 6), (6, 6), (4, 9), (6, 9)]


def trained(numbered_shapes, device="cpu"):
    """Matrices of these shapes after three steps; matrix i has its own random numbers, whatever the others are."""
    rngs = [np.random.default_rng([i, *shape]) for i, shape in numbered_shapes]
    weights = [
        mg.tensor(rng.standard_normal(shape).astype(np.float32), device=device, requires_grad=True)
        for rng, (_, shape) in zip(rngs, numbered_shapes, strict=True)
    ]
    optimizer = mg.optim.Muon(weights, lr=0.1)
    for _ in range(3):
        for rng, w in zip(rngs, weights, strict=True):
            w.grad = mg.tensor(rng.standard_normal(w.shape).astype(np.float32), device=device)
        optimizer.step()
    assert all(w.device == device for w in weights)
    return [w.detach().cpu().numpy() for w in weights]


@pytest.mark.parametrize("portion", [1 << 22, 100])
def test_a_matrix_takes_the_same_steps_alone_or_with_others(portion, monkeypatch):
    monkeypatch.setattr(muon, "PORTION", portion)
    numbered = list(enumerate(MIXED_SHAPES))
    for one, together in zip(numbered, trained(numbered), strict=True):
        np.testing.assert_allclose(together, trained([one])[0], rtol=1e-4, atol=1e-5)


def test_small_matrices_share_a_portion_and_large_ones_stand_alone(monkeypatch):
    monkeypatch.setattr(muon, "PORTION", 100)  # the matrices have 54, 54, 36, 36 and 54 numbers
    sizes = [[w.numel() for w in part] for part in muon._portions([mg.zeros(*shape) for shape in (*MIXED_SHAPES, (11, 10))])]
    assert sizes == [[54], [54, 36], [36, 54], [110]]
    kinds = [mg.zeros(2, 2), mg.zeros(2, 2, dtype=mg.float64), mg.zeros(2, 2)]
    assert [[w.dtype for w in part] for part in muon._portions(kinds)] == [[mg.float32, mg.float32], [mg.float64]]


@pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")
@pytest.mark.parametrize("shapes", [MIXED_SHAPES[:1], MIXED_SHAPES[1:2], MIXED_SHAPES])
def test_the_cuda_kernels_take_the_same_steps(shapes):
    numbered = list(enumerate(shapes))
    for ours, expected in zip(trained(numbered, "emulator"), trained(numbered), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_a_saved_state_continues():
    def step(optimizer, w, seed):
        w.grad = mg.randn(4, 5, generator=mg.Generator(seed))
        optimizer.step()

    w = mg.zeros(4, 5, requires_grad=True)
    optimizer = mg.optim.Muon([w], lr=0.1)
    step(optimizer, w, 0)
    copy = w.detach().clone().requires_grad_()
    other = mg.optim.Muon([copy], lr=0.3)
    other.load_state_dict(optimizer.state_dict())
    step(optimizer, w, 1)
    step(other, copy, 1)
    assert w.tolist() == copy.tolist()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", [{}, {"nesterov": False}, {"adjust_lr_fn": "match_rms_adamw"}, {"weight_decay": 0.0}])
def test_ten_steps_follow_pytorchs(shape, settings):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start = rng.standard_normal(shape).astype(np.float32)
    theirs, ours = torch.tensor(start, requires_grad=True), mg.tensor(start, requires_grad=True)
    their_optimizer = torch.optim.Muon([theirs], lr=0.1, **settings)
    our_optimizer = mg.optim.Muon([ours], lr=0.1, **settings)
    for _ in range(10):
        gradient = rng.standard_normal(shape).astype(np.float32)
        theirs.grad, ours.grad = torch.tensor(gradient), mg.tensor(gradient)
        their_optimizer.step()
        our_optimizer.step()
    moved = np.linalg.norm(ours.detach().numpy() - start)
    distance = np.linalg.norm(ours.detach().numpy() - theirs.detach().numpy())
    assert distance < 0.02 * moved  # bfloat16 keeps eight bits


unchecked: Any = mg  # mypy would refuse the calls below


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: unchecked.optim.Muon([mg.zeros(3, requires_grad=True)]),
            r"expected matrices, got shape \(3,\); give this parameter",
        ),
        (
            lambda: unchecked.optim.Muon([mg.zeros(3, 3, requires_grad=True)], adjust_lr_fn="no"),
            "'original' or 'match_rms_adamw'",
        ),
        (lambda: unchecked.optim.Muon([mg.zeros(3, 3, requires_grad=True)], ns_steps=100), "fewer than 100 ns_steps"),
        (lambda: unchecked.optim.Muon([mg.zeros(3, 3, requires_grad=True)], lr=-1), "lr of at least 0, got -1"),
        (lambda: unchecked.optim.Muon([mg.zeros(3, 3, requires_grad=True)], ns_steps=2.5), "an int as ns_steps, got float"),
        (
            lambda: unchecked.optim.Muon([mg.zeros(3, 3, requires_grad=True)], ns_coefficients=None),
            "three numbers as ns_coefficients",
        ),
        (lambda: unchecked.optim.Muon([("w", mg.zeros(3, 3, requires_grad=True))]), "expected tensors to update, got tuple"),
    ],
)
def test_bad_settings_get_a_sentence(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


RNG = np.random.default_rng(0)
START = [RNG.standard_normal(shape) for shape in ((4, 6), (6,), (3, 4))]
GRADIENTS = [[RNG.standard_normal(x.shape) for x in START] for _ in range(4)]
ADAMW = dict(lr=0.01, betas=(0.8, 0.9), weight_decay=0.2)
MUON = dict(lr=0.05, weight_decay=0.3, momentum=0.9)


def three_parameters(values=START):
    return [mg.tensor(x.tolist(), dtype=mg.float64, requires_grad=True) for x in values]


def take_steps(params, *optimizers):
    for grads in GRADIENTS:
        for p, g in zip(params, grads, strict=True):
            p.grad = mg.tensor(g.tolist(), dtype=mg.float64)
        for optimizer in optimizers:
            optimizer.step()
    return [p.detach().numpy() for p in params]


def both_in_one(params):
    return mg.optim.MuonWithAuxAdam([{"params": params[1:], **ADAMW}, {"params": params[:1], "use_muon": True, **MUON}])


def test_muon_beside_adamw_takes_the_steps_of_both():
    one, two = three_parameters(), three_parameters()
    ours = take_steps(one, both_in_one(one))
    theirs = take_steps(two, mg.optim.Muon(two[:1], **MUON), mg.optim.AdamW(two[1:], **ADAMW))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_muon_beside_adamw_continues_from_its_state():
    params = three_parameters()
    optimizer = both_in_one(params)
    copies = three_parameters(take_steps(params, optimizer))
    resumed = both_in_one(copies)
    resumed.load_state_dict(optimizer.state_dict())
    for a, b in zip(take_steps(params, optimizer), take_steps(copies, resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    muon, adamw = (
        mg.optim.MuonWithAuxAdam([{"params": params[2:], "use_muon": kind}]).param_groups[0] for kind in (True, False)
    )
    assert (muon["weight_decay"], muon["eps"]) == (0.1, 1e-7) and (adamw["weight_decay"], adamw["eps"]) == (0.01, 1e-8)
    with pytest.raises(TypeError, match="expected groups as dicts"):
        mg.optim.MuonWithAuxAdam(params)
    with pytest.raises(ValueError, match="MuonWithAuxAdam: expected matrices, got shape"):
        mg.optim.MuonWithAuxAdam([{"params": params[1:2], "use_muon": True}])
