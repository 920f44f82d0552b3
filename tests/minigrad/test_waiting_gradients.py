"""Gradients that wait are added by the kernels that make the rest (Context.take): every sum must come out as if added apart."""

import numpy as np
import pytest

import kernels
import minigrad as mg
import minigrad.nn.functional as F

SETS = [("reference", mg.float64), ("cpu", mg.float32)]


def tensors(dtype, *shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [mg.tensor(rng.standard_normal(shape), dtype=dtype, requires_grad=True) for shape in shapes]


def grads_of(loss, *leaves):
    """The gradients of one loss alone."""
    for leaf in leaves:
        leaf.grad = None
    loss().backward()
    return [leaf.grad.numpy().copy() for leaf in leaves]


@pytest.mark.parametrize("name, dtype", SETS)
@pytest.mark.parametrize("interior", [False, True])
def test_residual_path_around_a_layernorm(name, dtype, interior):
    with kernels.use(name):
        x, w, up = tensors(dtype, (3, 5, 7), (7,), (3, 5, 7))

        def stream():
            return x * 1.5 if interior else x

        def residual(h):
            return ((h + 2 * F.layer_norm(h, (7,), w)) * up.detach()).sum()

        together = grads_of(lambda: residual(stream()), x, w)
        direct = grads_of(lambda: (stream() * up.detach()).sum(), x)[0]
        around = grads_of(lambda: (2 * F.layer_norm(stream(), (7,), w) * up.detach()).sum(), x, w)
    np.testing.assert_allclose(together[0], direct + around[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(together[1], around[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, dtype", SETS)
def test_retained_gradient_counts_nothing_twice(name, dtype):
    with kernels.use(name):
        (x,) = tensors(dtype, (4, 6))
        h = x * 1.0
        h.retain_grad()
        (h + F.layer_norm(h, (6,))).sum().backward()
    np.testing.assert_allclose(h.grad.numpy(), x.grad.numpy(), rtol=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), 1.0, atol=1e-5)  # a layernorm's outputs sum to zero whatever x is


@pytest.mark.parametrize("name, dtype", SETS)
def test_tied_matrix_and_a_second_batch(name, dtype):
    with kernels.use(name):
        w, other = tensors(dtype, (9, 4), (9, 4))
        ids = mg.tensor([[1, 2, 2], [8, 0, 1]])

        def looked_up():
            return (F.embedding(ids, w) ** 2).sum()

        def projected():
            return (F.linear(other, w) ** 2).sum()

        apart = grads_of(looked_up, w)[0] + grads_of(projected, w)[0]
        together = grads_of(lambda: looked_up() + projected(), w)[0]
        kept = w.grad.array
        (looked_up() + projected()).backward()
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-5)
    assert w.grad.array is kept  # whoever holds the gradient's array sees the sum
    np.testing.assert_allclose(w.grad.numpy(), 2 * apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name, dtype", SETS)
def test_an_upstream_gradient_that_is_the_gradient_itself_is_not_written_to(name, dtype):
    with kernels.use(name):
        x, w = tensors(dtype, (5, 5), (5, 5))
        F.linear(x, w).sum().backward()
        first, upstream = w.grad.numpy().copy(), w.grad
        F.linear(x, w).backward(upstream)
        want = first + first.T @ x.detach().numpy()
    np.testing.assert_allclose(w.grad.numpy(), want, rtol=1e-4, atol=1e-5)


def test_a_weight_that_is_computed_keeps_the_shared_gradient_of_its_other_use():
    w, x, up = tensors(mg.float64, (4, 3), (4, 3), (4, 4))
    v = w * 2.0
    (F.linear(x, v) * up.detach()).sum().backward()
    alone = w.grad.numpy().copy()
    w.grad = None
    v = w * 2.0
    s = v + w  # hands one and the same gradient to v and w
    ((F.linear(x, v) * up.detach()).sum() + s.sum()).backward()
    np.testing.assert_allclose(w.grad.numpy(), alone + 3.0, rtol=1e-12)


def test_the_kernels_do_the_adding(monkeypatch):
    taken, take = [], mg.Context.take

    def noted(self, i, to_write=False):
        waiting = take(self, i, to_write)
        taken.append(None if waiting is None else waiting.shape)
        return waiting

    monkeypatch.setattr(mg.Context, "take", noted)
    x, w = tensors(mg.float32, (2, 4), (9, 4))
    h = x * 1.0
    (h + F.layer_norm(h, (4,))).sum().backward()
    assert taken == [(2, 4)]
    (F.linear(x, w).sum() + F.embedding(mg.tensor([1, 1]), w).sum()).backward()
    assert taken[1:].count((9, 4)) == 1  # of the matrix's two uses the second adds to what the first made
    with mg.autograd.detect_anomaly():
        F.linear(x, w).sum().backward()
    assert taken[-1] is None  # there a backward pass that is refused must leave the gradient as it was


def test_the_leafs_own_array_holds_the_sum():
    (x,) = tensors(mg.float32, (3, 4))
    (x * 2).sum().backward()
    held = x.grad.numpy()
    F.layer_norm(x, (4,)).sum().backward()
    np.testing.assert_allclose(held, 2.0, atol=1e-5)
