"""Kernels that add to a waiting gradient (Context.take): every sum must equal the sum of separate backward passes."""

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
    """The gradients of the leaves for one loss."""
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
def test_a_retained_gradient_counts_nothing_twice(name, dtype):
    with kernels.use(name):
        (x,) = tensors(dtype, (4, 6))
        h = x * 1.0
        h.retain_grad()
        (h + F.layer_norm(h, (6,))).sum().backward()
    np.testing.assert_allclose(h.grad.numpy(), x.grad.numpy(), rtol=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), 1.0, atol=1e-5)  # the outputs of a layernorm sum to zero for every x


@pytest.mark.parametrize("name, dtype", SETS)
def test_tied_matrix_and_a_second_batch(name, dtype):
    with kernels.use(name):
        w, other = tensors(dtype, (9, 4), (9, 4))
        ids = mg.tensor([[1, 2, 2], [8, 0, 1]])

        def embedding_loss():
            return (F.embedding(ids, w) ** 2).sum()

        def linear_loss():
            return (F.linear(other, w) ** 2).sum()

        apart = grads_of(embedding_loss, w)[0] + grads_of(linear_loss, w)[0]
        together = grads_of(lambda: embedding_loss() + linear_loss(), w)[0]
        array = w.grad.array
        (embedding_loss() + linear_loss()).backward()
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-5)
    assert w.grad.array is array  # added in place
    np.testing.assert_allclose(w.grad.numpy(), 2 * apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name, dtype", SETS)
def test_an_upstream_gradient_that_is_a_leafs_gradient_is_not_overwritten(name, dtype):
    with kernels.use(name):
        x, w = tensors(dtype, (5, 5), (5, 5))
        F.linear(x, w).sum().backward()
        first, upstream = w.grad.numpy().copy(), w.grad
        F.linear(x, w).backward(upstream)
        expected = first + first.T @ x.detach().numpy()
    np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_shared_gradient_is_not_overwritten_by_a_kernel_that_adds():
    w, x, up = tensors(mg.float64, (4, 3), (4, 3), (4, 4))
    v = w * 2.0
    (F.linear(x, v) * up.detach()).sum().backward()
    alone = w.grad.numpy().copy()
    w.grad = None
    v = w * 2.0
    s = v + w  # v and w receive the same array as gradient
    ((F.linear(x, v) * up.detach()).sum() + s.sum()).backward()
    np.testing.assert_allclose(w.grad.numpy(), alone + 3.0, rtol=1e-12)


def test_kernels_add_to_waiting_gradients(monkeypatch):
    taken_shapes, take = [], mg.Context.take

    def recording_take(self, i, to_write=False):
        waiting = take(self, i, to_write)
        taken_shapes.append(None if waiting is None else waiting.shape)
        return waiting

    monkeypatch.setattr(mg.Context, "take", recording_take)
    x, w = tensors(mg.float32, (2, 4), (9, 4))
    h = x * 1.0
    (h + F.layer_norm(h, (4,))).sum().backward()
    assert taken_shapes == [(2, 4)]
    (F.linear(x, w).sum() + F.embedding(mg.tensor([1, 1]), w).sum()).backward()
    assert taken_shapes[1:].count((9, 4)) == 1  # the second use of the matrix adds to the gradient from the first
    with mg.autograd.detect_anomaly():
        F.linear(x, w).sum().backward()
    assert taken_shapes[-1] is None  # a backward pass that raises must leave the gradient as it was


def test_a_leafs_gradient_is_added_to_in_place():
    (x,) = tensors(mg.float32, (3, 4))
    (x * 2).sum().backward()
    grad = x.grad.numpy()
    F.layer_norm(x, (4,)).sum().backward()
    np.testing.assert_allclose(grad, 2.0, atol=1e-5)
