"""The graph (accumulation, reuse, order, release), changes in place, indexing and error messages."""

import threading
from typing import Any

import numpy as np
import pytest

import kernels
import minigrad as mg
from minigrad.engine import topological_order

unchecked: Any = mg  # for calls that a type checker refuses


def leaf(*shape, seed=0):
    return mg.tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def test_a_diamond():
    x = leaf(3)
    a = x * 2
    b, c = a * 3, a * a
    (b + c).sum().backward()
    np.testing.assert_allclose(x.grad.array, 6 + 8 * x.array)


def test_a_tensor_used_twice_in_one_operation():
    x = leaf(3, 3)
    (x @ x).sum().backward()
    ones = np.ones((3, 3))
    np.testing.assert_allclose(x.grad.array, ones @ x.array.T + x.array.T @ ones)


def test_the_gradient_that_an_addition_shares_is_not_overwritten():
    x, y = leaf(3), leaf(3, seed=1)
    total = x + y  # x and y receive the same array as gradient
    (total.sum() + (x * 10).sum()).backward()
    np.testing.assert_allclose(x.grad.array, 11)
    np.testing.assert_allclose(y.grad.array, 1)
    x.grad.array += 5
    np.testing.assert_allclose(y.grad.array, 1)


def test_backward_accumulates():
    x = leaf(4)
    for times in (1, 2, 3):
        (x * x).sum().backward()
        np.testing.assert_allclose(x.grad.array, times * 2 * x.array)


def test_a_second_backward_needs_retain_graph():
    x = leaf(4)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(x.grad.array, 4 * x.array)
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        y.backward()


def test_saved_arrays_are_freed():
    x = leaf(4)
    y = (x * x).sum()
    node = y.node
    y.backward()
    assert node.ctx is None and node.inputs == ()


def test_a_graph_of_100_000_nodes():
    x = leaf(1)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.sum().backward()
    np.testing.assert_allclose(x.grad.array, 1)
    del y  # freeing the chain must not recurse either


def test_a_ladder_of_diamonds_is_walked_once():
    x = leaf(1)
    y = x
    for _ in range(60):  # 2⁶⁰ paths: walking paths instead of nodes would never end
        y = (y + y) * 0.5
    y.sum().backward()
    np.testing.assert_allclose(x.grad.array, 1)


def test_the_order_is_topological():
    x = leaf(2)
    a = x * 2
    b = a + x
    c = (b * a).sum()
    order = topological_order([c])
    for node in order:
        for t in node.inputs:
            if t is not None and t.node is not None:
                assert order.index(node) < order.index(t.node)


def test_retain_grad_stores_an_interior_gradient():
    x = leaf(3)
    a, b = x * 2, x * 3
    a.retain_grad()
    (a * b).sum().backward()
    np.testing.assert_allclose(a.grad.array, b.array)
    assert b.grad is None


def test_hooks_see_and_replace_the_whole_gradient():
    x, w, seen = leaf(3), leaf(3), []
    handle = x.register_hook(seen.append)
    a = x * w
    doubled = a.register_hook(lambda grad: grad * 2)
    a.retain_grad()
    a.register_hook(lambda grad: seen.append(grad))
    (a * 3 + a + x).sum().backward(retain_graph=True)
    np.testing.assert_allclose(seen[0].array, [8.0] * 3)  # the sum of two uses of a, doubled
    np.testing.assert_allclose(seen[1].array, 8 * w.array + 1)  # a leaf's hook runs once, after all of its uses
    np.testing.assert_allclose(x.grad.array, 8 * w.array + 1)
    np.testing.assert_allclose(a.grad.array, [8.0] * 3)
    handle.remove()
    handle.remove()
    doubled.remove()
    x.grad = w.grad = None
    (a * 3 + a + x).sum().backward()
    np.testing.assert_allclose(x.grad.array, 4 * w.array + 1)
    np.testing.assert_allclose(a.grad.array, [12.0] * 3)  # retained gradients add up, as leaves' do
    assert len(seen) == 3
    with pytest.raises(RuntimeError, match="hook: expected None or a gradient of shape"):
        x.register_hook(lambda grad: grad.sum())
        x.sum().backward()
    with pytest.raises(RuntimeError, match="would never run"):
        mg.ones(2).register_hook(print)


def test_autograd_grad_leaves_every_grad_alone():
    x, w = leaf(3), leaf(3)
    a = x * w
    y, z = (a * a).sum(), a * 3
    dx, da = mg.autograd.grad([y, z], [x, a], [None, mg.ones(3, dtype=mg.float64)], retain_graph=True)
    np.testing.assert_allclose(da.array, 2 * a.array + 3)
    np.testing.assert_allclose(dx.array, (2 * a.array + 3) * w.array)
    assert x.grad is None and w.grad is None and not x.hooks
    assert mg.autograd.grad(y, [leaf(2), x], allow_unused=True, retain_graph=True)[0] is None
    with pytest.raises(RuntimeError, match="allow_unused"):
        mg.autograd.grad(y, leaf(2), retain_graph=True)
    with pytest.raises(NotImplementedError, match="create_graph"):
        mg.autograd.grad(y, x, create_graph=True)
    mg.autograd.grad(y, x)
    with pytest.raises(RuntimeError, match="already differentiated"):
        mg.autograd.grad(y, x)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda x, a: x.mul_(2), "got a leaf"),
        (lambda x, a: a.view(-1).mul_(2), "a view of another tensor of the graph"),
        (lambda x, a: a.split(1)[0].mul_(2), "a view of another tensor of the graph"),
        (lambda x, a: x.view(-1).mul_(2), "a view of another tensor of the graph"),
        (lambda x, a: (total := mg.zeros(3, dtype=mg.float64), total.view(-1), total.view(-1).add_(a)), "memory of its own"),
        (lambda x, a: (total := mg.zeros(3, dtype=mg.float64), total[:2], total.detach(), total.add_(a)), "memory of its own"),
        (lambda x, a: (a * 1).retain_grad() or a.mul_(2), None),
    ],
)
def test_a_change_in_place_is_recorded_only_where_the_graph_stays_right(change, words):
    x = leaf(3)
    a = x * 3
    if words is None:
        change(x, a)
        a.sum().backward()
        np.testing.assert_allclose(x.grad.array, [6.0] * 3)
    else:
        with pytest.raises(RuntimeError, match=words):
            change(x, a)


def test_a_constant_joins_the_graph_when_it_receives_a_tensor_of_it():
    x = leaf(3)
    total = mg.zeros(3, dtype=mg.float64)
    for i in range(3):
        total += x * i
    total.index_add_(0, mg.tensor([1, 1]), x[:2] * 10)
    total.mul_(2)
    total.sum().backward()
    np.testing.assert_allclose(x.grad.array, [26.0, 26.0, 6.0])


def test_a_tensor_used_before_its_change_in_place():
    x = leaf(3)
    a = x * 3
    view, double, square = a.view(-1), a * 2, a * a
    a.masked_fill_(mg.tensor([True, False, False]), 0.0)
    assert view.detach()[0].item() == 0 and double[0].item() != 0
    with pytest.raises(RuntimeError, match="this view of shape .* was made before a change in place"):
        view.sum()
    with pytest.raises(RuntimeError, match="changed in place since"):
        square.sum().backward()  # it saved a's values
    assert x.grad is None
    double.sum().backward(retain_graph=True)  # the derivative of 2a needs no values
    np.testing.assert_allclose(x.grad.array, [6.0, 6.0, 6.0])
    a.sum().backward()
    np.testing.assert_allclose(x.grad.array, [6.0, 9.0, 9.0])


def test_residual_lines_and_items_are_recorded():
    def gradient(t, x):
        h = x * 2
        h += h.relu()
        h -= h.mean()
        h[0] = x[1] * x[2]
        total = t.zeros(3, dtype=t.float64)
        total[0] = h.sum()
        total[1:] = total[1:] + h[[0, 2]]
        (total * total).sum().backward()
        return x.grad.numpy()

    x = leaf(3)
    ours = gradient(mg, x)
    torch = pytest.importorskip("torch")
    np.testing.assert_allclose(ours, gradient(torch, torch.tensor(x.array, requires_grad=True)))


def test_one_element_is_a_view_as_well():
    t = mg.zeros(2, 2)
    t[0, 1].fill_(5)
    t[1][0] += 2
    assert t.tolist() == [[0.0, 5.0], [2.0, 0.0]]
    with pytest.raises(RuntimeError, match="item assignment: several elements of this expanded tensor share memory"):
        mg.zeros(1, 2).expand(2, 2)[0] = 1
    assert mg.zeros(0, 3).add_(1).shape == (0, 3)
    w = mg.ones(1, 1, requires_grad=True)
    t[0, 0] = w
    t[1] = w * 3
    (t * mg.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert t.tolist() == [[1.0, 5.0], [3.0, 3.0]] and w.grad.tolist() == [[22.0]]


def test_multinomial_draws_with_the_given_probabilities():
    weights = mg.tensor([[1.0, 0.0, 3.0], [2.0, 2.0, 4.0]])
    drawn = mg.multinomial(weights, 20_000, replacement=True, generator=mg.Generator(1))
    shares = np.stack([(drawn.array == i).mean(1) for i in range(3)], 1)
    np.testing.assert_allclose(shares, weights.array / weights.array.sum(1, keepdims=True), atol=0.015)
    first = np.array([mg.multinomial(weights[1], 2, generator=mg.Generator(seed)).tolist() for seed in range(4000)])
    assert (first[:, 0] != first[:, 1]).all()
    np.testing.assert_allclose([(first[:, 0] == i).mean() for i in range(3)], [0.25, 0.25, 0.5], atol=0.03)
    # The second draw is from what is left: 1/4 · 2/6 + 1/2 · 2/4 for index 0.
    np.testing.assert_allclose((first[:, 1] == 0).mean(), 1 / 4 * 2 / 6 + 1 / 2 * 2 / 4, atol=0.03)


def test_random_numbers_in_place_and_like():
    x = mg.zeros(200, 50, dtype=mg.float64).normal_(3.0, 0.5, generator=mg.Generator(2))
    assert abs(x.mean().item() - 3) < 0.02 and abs(x.std().item() - 0.5) < 0.02
    y = mg.randn_like(x, generator=mg.Generator(2))
    np.testing.assert_allclose(x.array, 3 + 0.5 * y.array)


def test_inference_mode_records_nothing():
    x = leaf(2)

    @mg.inference_mode
    def double():
        return x * 2

    with mg.inference_mode(), mg.inference_mode(False):
        assert not (x * 2).requires_grad
    assert not double().requires_grad and (x * 2).requires_grad


def test_several_outputs():
    x = leaf(6)
    a, b, _ = x.split(2)
    (a * 2 + b * 3).sum().backward()
    np.testing.assert_allclose(x.grad.array, [2, 2, 3, 3, 0, 0])


def test_the_gradients_of_q_k_and_v_are_joined_without_a_copy():
    qkv = leaf(2, 5, 18)
    y = qkv * 1
    q, k, v = (part.view(2, 5, 2, 3).transpose(1, 2) for part in y.split(6, 2))
    out = mg.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    grads = out.node.backward([np.ones(out.shape)])
    flat = [g.transpose(0, 2, 1, 3).reshape(2, 5, 6) for g in grads[:3]]
    split = q.node.inputs[0].node.inputs[0].node  # behind the transpose and the view
    joined = split.backward(flat)[0]
    assert np.shares_memory(joined, grads[0]) and np.shares_memory(joined, grads[2])
    np.testing.assert_array_equal(joined, np.concatenate(flat, axis=2))
    reordered = split.backward(flat[::-1])[0]
    np.testing.assert_array_equal(reordered, np.concatenate(flat[::-1], axis=2))


@pytest.mark.parametrize("B, T", [(2, 5), (1, 5), (2, 1)])
def test_the_gradients_of_split_heads_are_joined_without_a_copy(B, T):
    """Chapter 4 splits q, k and v so that the axis of heads is neither the first nor the last in memory."""
    qkv = leaf(B, T, 18)
    q, k, v = (qkv * 1).view(B, T, 6, 3).transpose(1, 2).split(2, 1)  # (B, H, T, D) each
    out = mg.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    grads = out.node.backward([np.ones(out.shape)])[:3]
    joined = q.node.backward(grads)[0]  # (B, 3H, T, D)
    assert np.shares_memory(joined.transpose(0, 2, 1, 3).reshape(B, T, 18), grads[1])
    np.testing.assert_array_equal(joined, np.concatenate(grads, axis=1))
    for pieces in (grads[::-1], [g[:, ::-1] for g in grads], [g[:, :, ::-1] for g in grads], [grads[0]] * 3):
        np.testing.assert_array_equal(q.node.backward(pieces)[0], np.concatenate(pieces, axis=1))


def test_no_grad_and_detach():
    x = leaf(3)
    with mg.no_grad():
        y = x * 2
        with mg.enable_grad():
            assert (x * 2).requires_grad
    assert not y.requires_grad and y.node is None
    assert not x.detach().requires_grad and x.detach().array is x.array
    with pytest.raises(RuntimeError, match="does not require grad"):
        y.sum().backward()


def test_no_grad_ends_after_an_exception():
    with pytest.raises(KeyError), mg.no_grad():
        raise KeyError
    assert mg.is_grad_enabled()


def test_gradients_have_their_parameters_dtype():
    x = mg.tensor([1.0, 2.0], dtype=mg.float32, requires_grad=True)
    y = mg.tensor([1.0, 2.0], dtype=mg.float64, requires_grad=True)
    (x * y).sum().backward()
    assert x.grad.dtype == mg.float32 and y.grad.dtype == mg.float64


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x * 2.0,
        lambda x: 2 * x,
        lambda x: x / 3,
        lambda x: x + np.float64(1),
        lambda x: x**2,
        lambda x: x.mean(),
        lambda x: x.var(),
        lambda x: mg.exp(x),
        lambda x: x.softmax(-1),
        lambda x: x - mg.tensor(1.0, dtype=mg.float64),
        lambda x: x * mg.tensor([1, 2, 3]),
        lambda x: mg.where(x > 0, x, 0.0),
        lambda x: x.clamp(min=0.5),
        lambda x: x.logsumexp(0),
    ],
)
def test_float32_stays_float32(operation):
    x = mg.tensor([1.0, -2.0, 3.0], requires_grad=True)
    y = operation(x)
    assert y.dtype == mg.float32
    y.sum().backward()
    assert x.grad.dtype == mg.float32


def test_backward_of_many_numbers_needs_a_gradient():
    x = leaf(3)
    with pytest.raises(RuntimeError, match=r"shape \(3,\) needs a gradient"):
        (x * 2).backward()
    (x * 2).backward(mg.tensor([1.0, 0.0, 2.0]))
    np.testing.assert_allclose(x.grad.array, [2, 0, 4])
    with pytest.raises(RuntimeError, match=r"backward: expected a gradient of shape \(3,\), got \(2,\)"):
        (x * 2).backward(mg.ones(2))


def test_in_place_only_where_nothing_is_recorded():
    x = leaf(3)
    before = x.array.copy()
    with pytest.raises(RuntimeError, match="requires grad"):
        x += 1
    with pytest.raises(RuntimeError, match="requires grad"):
        x[0] = 5
    with mg.no_grad():
        array = x.array
        x -= 0.5
        assert x.array is array
    np.testing.assert_allclose(x.array, before - 0.5)
    y = mg.zeros(3)
    y[1:] = 2
    y += mg.ones(3)
    assert y.tolist() == [1, 3, 3]


def test_a_saved_array_must_not_change_before_backward():
    w = leaf(2)
    y = (w * w).sum()
    with mg.no_grad():
        w += 1
    with pytest.raises(RuntimeError, match="<Mul> saved a tensor .* changed in place"):
        y.backward()
    c = mg.ones(2, dtype=mg.float64)
    y = (leaf(2) * c[:1]).sum()
    c += 1  # through another view of the same memory
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    x = leaf(2)
    y = (x * 2).exp()
    y.detach().fill_(9)
    with pytest.raises(RuntimeError, match="<Exp> saved"):
        y.sum().backward()
    p = mg.nn.Parameter(mg.ones(2))
    y = (p * p).sum()
    y.backward(retain_graph=True)
    mg.optim.AdamW([p]).step()
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    x = leaf(2)
    y = x + 1  # an addition saves no values
    with mg.no_grad():
        x += 1
    y.sum().backward()


def test_in_place_changes_that_would_lose_a_gradient_are_refused():
    w = leaf(3)
    with pytest.raises(RuntimeError, match="got a leaf that requires grad"):
        w += 1
    with pytest.raises(RuntimeError, match="memory of its own"):
        mg.zeros(3)[1:].copy_(w[1:])
    with pytest.raises(RuntimeError, match="cannot be written into a tensor of int64"):
        mg.tensor([1, 2]).add_(1.5)
    with pytest.raises(RuntimeError, match=r"copy_: .* shape"):
        mg.zeros(2).copy_(mg.zeros(3, 2))


def test_an_index_of_ints_and_arrays_keeps_its_axes_in_order():
    x = mg.tensor(np.arange(24.0).reshape(2, 3, 4))
    ids = mg.tensor([0, 2])
    assert x[0, :, ids].shape == (3, 2) and x[mg.tensor(1), ..., [0, 1]].shape == (3, 2)
    assert x[0, :, mg.tensor([True, False, True, True])].shape == (3, 3)
    assert x[[]].shape == (0, 3, 4)
    x[0, :, ids] = mg.zeros(3, 2, dtype=mg.float64)
    assert x[0].tolist()[0] == [0, 1, 0, 3]
    with pytest.raises(TypeError, match="indices must be integers"):
        x[mg.tensor([0.5])]


def test_a_wrong_backward_is_named():
    class Short(mg.Function):
        @staticmethod
        def forward(ctx, a, b):
            return a + b

        @staticmethod
        def backward(ctx, dy):
            return dy

    class Misshapen(Short):
        @staticmethod
        def backward(ctx, dy):
            return dy[:1], dy

    with pytest.raises(RuntimeError, match="backward of <Short>: expected a gradient for each of 2 inputs, got 1"):
        Short.apply(leaf(2), leaf(2)).sum().backward()
    with pytest.raises(RuntimeError, match=r"Misshapen.* gradient of shape \(1,\) for input 0 of shape \(2,\)"):
        Misshapen.apply(leaf(2), leaf(2)).sum().backward()


def test_anomaly_detection_names_the_operation():
    x = mg.tensor([1.0, 0.0], requires_grad=True)
    with mg.autograd.detect_anomaly():
        with pytest.raises(FloatingPointError, match="Log made NaN or infinity"):
            x.log()
        y = (x * 1e20).sqrt()
        with pytest.raises(FloatingPointError, match="backward of <Sqrt>"):
            y.sum().backward()
        scores = mg.randn(2, 1, 3, 4, requires_grad=True)
        mg.nn.functional.scaled_dot_product_attention(scores, scores, scores, dropout_p=0.5, is_causal=True).sum().backward()
    x.log()  # outside the block, log 0 is -inf, as in PyTorch


# Our sentence, or NumPy's own where an older NumPy (2.1) replaces it.
NO_BFLOAT16 = "(bfloat16: NumPy has no such dtype|Cannot interpret 'bfloat16' as a data type)"


@pytest.mark.parametrize(
    "act, error, words",
    [
        (lambda: mg.ones(2, 3) + mg.ones(4), RuntimeError, r"add: shapes \(2, 3\) and \(4,\)"),
        (lambda: mg.ones(2, 3) @ mg.ones(2, 3), RuntimeError, r"matmul: cannot multiply shapes \(2, 3\) and \(2, 3\)"),
        (lambda: mg.ones(2, 3).view(4, 2), RuntimeError, r"cannot reshape"),
        (lambda: mg.ones(2, 3).T.view(6), RuntimeError, r"view: .* not contiguous"),
        (lambda: mg.ones(2, 3).item(), RuntimeError, "one element"),
        (lambda: mg.ones(2, requires_grad=True).numpy(), RuntimeError, "detach"),
        (lambda: bool(mg.ones(2)), RuntimeError, "ambiguous"),
        (lambda: mg.tensor([1, 2], requires_grad=True), RuntimeError, "floating-point"),
        (lambda: mg.ones(2)[5], IndexError, r"shape \(2,\)"),
        (lambda: unchecked.ones(2).fft(), AttributeError, "no 'fft'"),
        (lambda: unchecked.istft(mg.ones(2, 2)), AttributeError, "no 'istft'"),
        (lambda: mg.ones(2).to(mg.bfloat16), TypeError, f"to: .* got bfloat16 .{NO_BFLOAT16}"),
        (lambda: mg.zeros(2, dtype=mg.bfloat16), TypeError, NO_BFLOAT16),
        (lambda: mg.einsum("ij,j", mg.ones(2, 3)), RuntimeError, "names 2 operands, got 1"),
        (lambda: mg.einsum("ij->k", mg.ones(2, 3)), RuntimeError, "no operand has"),
        (lambda: mg.einsum("i", mg.ones(2, 3)), RuntimeError, "'i' .* does not fit a tensor of 2 dimensions"),
        (lambda: mg.einsum("ij,jk", mg.ones(2, 3), mg.ones(2, 3)), RuntimeError, "'j' has length 3 in one operand and 2"),
        (lambda: mg.ones(2).topk(3), RuntimeError, "topk: expected k between 0"),
        (lambda: mg.ones(2, 3).index_select(1, mg.tensor([3])), IndexError, "outside 0…2"),
        (lambda: mg.multinomial(mg.tensor([0.0, 1.0, 2.0]), 3), RuntimeError, "cannot draw 3 of 2"),
        (lambda: mg.tensor([3]) % 0, RuntimeError, "divided by zero"),
        (lambda: mg.nn.functional.pad(mg.ones(2), (1, 1), "reflect"), NotImplementedError, "only mode='constant'"),
        (lambda: unchecked.ones(2) + "a", TypeError, "add: expected tensors and numbers, got str"),
        (lambda: mg.cat([mg.ones(2, 3), mg.ones(3, 2)]), RuntimeError, "cat along dim 0"),
        (lambda: mg.ones(3).split([1, 1]), RuntimeError, "add up to 2"),
        (lambda: mg.ones(2, 2).sum(3), IndexError, "dim=3"),
        (lambda: mg.tensor([1, 2]).mean(), RuntimeError, "mean: expected a floating-point tensor, got int64"),
        (lambda: mg.tensor([[1], [1, 2]]), ValueError, "ragged"),
        (lambda: mg.ones(2).to("tpu"), TypeError, "device"),
        (lambda: mg.Tensor((1, 2)), TypeError, "NumPy or CuPy array"),
        (lambda: mg.ones(2, 2).gather(1, mg.tensor([[2], [0]])), IndexError, "outside 0…1"),
        (lambda: mg.ones(2).expand(3), RuntimeError, "cannot be expanded"),
        (lambda: mg.ones(2).masked_fill(mg.ones(2), 0), TypeError, "boolean"),
        (lambda: mg.ones(2).masked_fill(mg.ones(3) > 0, 0), RuntimeError, r"masked_fill: shapes \(3,\) and \(2,\)"),
        (lambda: mg.where(mg.ones(3) > 0, mg.ones(2), 0.0), RuntimeError, "where: shapes"),
        (lambda: mg.where(mg.tensor([1]), mg.ones(1), 0.0), TypeError, "must be boolean"),
        (lambda: mg.ones(2, 3, 4) @ mg.ones(3, 4, 2), RuntimeError, "matmul: shapes"),
        (lambda: unchecked.add(1, 2), TypeError, "at least one tensor"),
        (lambda: mg.ones(2, 2).flatten(5), IndexError, "flatten: dim=5"),
        (lambda: mg.ones(2, 2).flatten(1, 0), RuntimeError, "comes after"),
        (lambda: mg.ones(1, 2).squeeze(4), IndexError, "squeeze: dim=4"),
        (lambda: mg.ones(2, 2).permute(0, 3), IndexError, "permute: dim=3"),
        (lambda: mg.ones(2).expand(-1, 3), RuntimeError, "cannot be expanded"),
        (lambda: mg.ones(2).split([3, -1]), RuntimeError, "sizes"),
        (lambda: mg.cat([mg.ones(2)], 5), IndexError, "cat: dim=5"),
        (lambda: mg.cat([mg.ones(())]), RuntimeError, "use stack"),
        (lambda: mg.stack([mg.ones(2), mg.ones(3)]), RuntimeError, "stack: all shapes"),
        (lambda: mg.ones(2).size(5), IndexError, "dim=5"),
        (lambda: mg.ones(2, 3).gather(3, mg.tensor([[0]])), IndexError, "gather: dim=3"),
        (lambda: mg.ones(2) & mg.ones(2), TypeError, "make masks with comparisons"),
        (lambda: -mg.tensor([True]), TypeError, "use ~"),
        (lambda: mg.ones(3).tril(), RuntimeError, "tril: expected at least 2"),
        (lambda: unchecked.ones(2).clamp(min=mg.zeros(2)), TypeError, "numbers as bounds"),
        (lambda: mg.tensor([1, 2]).softmax(-1), TypeError, "softmax: expected floating-point"),
        (lambda: unchecked.ones(2, requires_grad=True).backward([1, 2]), TypeError, "backward: expected a tensor .*, got list"),
        (lambda: unchecked.optim.LBFGS([]), AttributeError, "no 'LBFGS'"),
    ],
)
def test_error_messages(act, error, words):
    with pytest.raises(error, match=words):
        act()


def test_the_error_without_a_gpu():
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount():
            pytest.skip("a GPU is here")
    except Exception:  # no CuPy or no driver, and the error should say so
        pass
    with pytest.raises(RuntimeError, match="device 'cuda'"):
        mg.ones(2).to("cuda")


def test_repr():
    assert repr(mg.tensor([1.0, 2.5])) == "tensor([1. , 2.5])"
    assert "grad_fn=<Add>" in repr(leaf(2) + 1)
    assert f"{mg.tensor(0.12345):.3f}" == "0.123"


def test_a_memory_mapped_array_is_on_the_cpu(tmp_path):
    np.arange(4, dtype=np.float32).tofile(tmp_path / "numbers")
    mapped = mg.from_numpy(np.memmap(tmp_path / "numbers", np.float32, "r"))
    assert (mapped + mg.ones(4)).tolist() == [1, 2, 3, 4]


def test_modes_and_kernel_sets_are_each_threads_own():
    seen = {}
    inside, done = threading.Event(), threading.Event()

    def other():
        with mg.no_grad(), kernels.use("reference"):
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    x = mg.tensor([2.0], requires_grad=True)
    seen["recorded"] = (x * x).requires_grad
    seen["kernels"] = repr(kernels.serving(np.ones(2, np.float32)))
    done.set()
    thread.join()
    assert seen == {"recorded": True, "kernels": "KernelSet('cpu')"} and mg.is_grad_enabled()


def test_no_grad_decorates_functions_methods_and_generators():
    @mg.no_grad()
    def steps(n):
        sent = None
        for _ in range(n):
            sent = yield mg.is_grad_enabled(), sent
        return "end"

    @mg.no_grad
    def inside():
        return mg.is_grad_enabled()

    assert not inside() and inside.__name__ == "inside" and mg.is_grad_enabled()
    generator = steps(2)
    assert next(generator) == (False, None) and mg.is_grad_enabled()
    assert generator.send("a") == (False, "a") and mg.is_grad_enabled()
    with pytest.raises(StopIteration, match="end"):
        next(generator)
    block = mg.no_grad()
    with block, block:
        assert not mg.is_grad_enabled()
    assert mg.is_grad_enabled()
