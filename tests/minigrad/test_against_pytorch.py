"""Values, gradients and dtypes of the operations against PyTorch (skipped without it)."""

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn.functional as mF

torch = pytest.importorskip("torch")
tF = torch.nn.functional

EXPRESSIONS = {  # each runs in minigrad and in PyTorch
    "arithmetic": lambda t, F, a, b: (a * b - b / 3 + 2 / (a.abs() + 1)) ** 2,
    "broadcast": lambda t, F, a, b: a[:, :1] * b[0] + a.sum(0, keepdim=True),
    "pow": lambda t, F, a, b: (a.abs() + 0.1) ** b,
    "maximum": lambda t, F, a, b: t.maximum(a, b) - t.minimum(a, b * 0),
    "clamp": lambda t, F, a, b: a.clamp(-0.3, 0.4) + b.clamp(min=0),
    "where": lambda t, F, a, b: t.where(a > b, a, b * 2),
    "masked_fill": lambda t, F, a, b: a.masked_fill(b > 0, -3.0),
    "reductions": lambda t, F, a, b: a.mean(1) + a.var(1) + b.std(1) + b.amax(1) + b.logsumexp(1),
    "max": lambda t, F, a, b: a.max(1).values + b.min(1, keepdim=True).values[:, 0] + a.max(),
    "ties": lambda t, F, a, b: (a > 0).to(a.dtype).amax(0) + t.relu(a * 0).sum() + (a * 0).amax(1).sum(),
    "cumsum": lambda t, F, a, b: a.cumsum(1) * b,
    "index": lambda t, F, a, b: a[:, -1] + b[:, 2] + a[t.tensor([0, 1, 1])][:, 0] + b[b > 0].sum(),
    "gather": lambda t, F, a, b: a.gather(1, t.tensor([[0, 0], [4, 1], [2, 2]])),
    "shapes": lambda t, F, a, b: t.cat([a.T, b.T], 1).reshape(2, -1).permute(1, 0).flatten().unsqueeze(0).expand(2, 30),
    "stack": lambda t, F, a, b: t.stack([a, b], 1)[:, 0] * t.stack(a.chunk(3, 0))[0],
    "chunk": lambda t, F, a, b: a.chunk(2, 1)[0].sum(1) * a.chunk(2, 1)[1].sum(1) + b.split([1, 4], 1)[1].mean(),
    "tril": lambda t, F, a, b: a.tril(1) + b.triu() + t.full((3, 5), float("-inf"), dtype=a.dtype).triu(5),
    "norm of zeros": lambda t, F, a, b: (a * 0).norm() + (b * 0).std() + a.norm(dim=1).sum(),
    "mixed index": lambda t, F, a, b: t.stack([a, b])[0, :, t.tensor([1, 3, 3])],
    "cat of dtypes": lambda t, F, a, b: t.cat([t.tensor([[1, 2, 3, 4, 5]]), a]),
    "minimum": lambda t, F, a, b: t.minimum(a, b) + a.min() + t.minimum(a, a * 1),
    "activations": lambda t, F, a, b: F.gelu(a) + F.gelu(b, approximate="tanh") + F.relu(a) * b.sigmoid() + a.tanh(),
    "logsigmoid": lambda t, F, a, b: F.logsigmoid(a * 30) + t.log(b.abs() + 1) + t.exp(a) + t.sqrt(b.abs()),
    "softmax": lambda t, F, a, b: F.softmax(a, dim=0) * F.log_softmax(b, dim=-1),
    "matmul": lambda t, F, a, b: a @ b.T @ a + (a @ b[0]).sum() + a[0] @ b.T[:, 0],
    "batched": lambda t, F, a, b: (a.reshape(3, 1, 1, 5) @ b.T.reshape(1, 5, 3)).squeeze(),
    "linear": lambda t, F, a, b: F.linear(a, b, a[:, 0]),
    "layer_norm": lambda t, F, a, b: F.layer_norm(a, (5,), b[0], b[1], 1e-4),
    "embedding": lambda t, F, a, b: F.embedding(t.tensor([[0, 2], [2, 2]]), a),
    "sin and cos": lambda t, F, a, b: a.sin() * b.cos() + t.cos(a) - t.sin(b),
    "remainder": lambda t, F, a, b: a % (b + 3) + 2 % (b.detach().abs() + 1) + (a.detach() // 0.3) * b,
    "silu": lambda t, F, a, b: F.silu(a * 20) * F.silu(b),
    "normalize": lambda t, F, a, b: F.normalize(a) + F.normalize(b, dim=0) + F.normalize(a * 0),
    "flip and roll": lambda t, F, a, b: a.flip(0, 1) * b.roll(2, 1) + t.roll(a, (1, -2), (0, 1)) + t.roll(b, 4),
    "repeat": lambda t, F, a, b: a.repeat(2, 1, 3) + b[:, :3].repeat_interleave(5, 1),
    "repeat_interleave": lambda t, F, a, b: t.repeat_interleave(a, t.tensor([2, 0, 3]), dim=0) * b.repeat_interleave(2)[:5],
    "pad": lambda t, F, a, b: F.pad(a, (1, 2, 0, 1)) + F.pad(b, (-1, 4, 3, -2), value=2.5),
    "sort": lambda t, F, a, b: a.sort(1).values * b.sort(0, descending=True)[0] + t.argsort(a, 1, descending=True),
    "topk": lambda t, F, a, b: a.topk(2).values.sum() + b.topk(2, 0, largest=False).values + t.topk(a, 2, 0).indices,
    "scatter": lambda t, F, a, b: (
        a.scatter(1, t.tensor([[4, 0], [1, 2]]), b[:2, :2] * 2) + b.scatter(0, t.tensor([[1, 0]]), 9.0)
    ),
    "index_select": lambda t, F, a, b: (
        a.index_select(1, t.tensor([3, 3, 0])) * t.index_select(b, 0, t.tensor([2, 2, 1]))[:, :3]
    ),
    "index_add": lambda t, F, a, b: a.index_add(0, t.tensor([1, 1, 2]), b, alpha=-0.5),
    "products": lambda t, F, a, b: t.mm(a, b.T) + t.bmm(a[None], b.T[None])[0] + t.dot(a[0], b[1]) + t.outer(a[:, 0], b[:, 1]),
    "einsum": lambda t, F, a, b: t.einsum("ij,kj->ik", a, b) + t.einsum("ij,kl,jl", a, b, a.T @ b) + t.einsum("ii", a[:, :3]),
    "einsum with dots": lambda t, F, a, b: t.einsum("...j,...j,i->i...", a, b, a[0]) + t.einsum("b...->...", [b])[0],
    "einsum, diagonals": lambda t, F, a, b: t.einsum("ii,ij->ji", a[:, :3], b) + t.einsum("i,j->", a[0], b[1]),
    "one_hot": lambda t, F, a, b: F.one_hot(t.tensor([[1, 0], [4, 2]])) + F.one_hot(t.tensor([[1, 0], [3, 2]]), 5) * a[0],
    "unique": lambda t, F, a, b: a * t.unique(t.tensor([3, 1, 3, 9, 4, 5, 3]), return_counts=True)[1] + (a > 0).nonzero().sum(),
    "changes in place": lambda t, F, a, b: ((a * b).add_(b).masked_fill_(a > 0, 3.0).div_(2) + b).clamp_(-1, 2).mul_(2.0),
    "overwritten in place": lambda t, F, a, b: (a * 2).copy_(b).sub_(a) + (b * 2).zero_() + (b * 3).fill_(2.0),
    "index_add_ and scatter_": lambda t, F, a, b: (
        (a * 1).index_add_(0, t.tensor([0, 2, 2]), b).scatter_(1, t.tensor([[2]]), 7.0)
    ),
    "mse": lambda t, F, a, b: F.mse_loss(a, b) + F.mse_loss(a, b, reduction="sum"),
}


def _inputs(dtype):
    rng = np.random.default_rng(3)
    return [rng.standard_normal((3, 5)).astype(dtype) for _ in range(2)]


@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-11), ("float32", 2e-5)])
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_values_and_gradients(name, dtype, rtol):
    arrays = _inputs(dtype)
    ours = [mg.tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = EXPRESSIONS[name](mg, mF, *ours), EXPRESSIONS[name](torch, tF, *theirs)
    assert y.shape == tuple(z.shape) and str(y.dtype) == str(z.dtype).removeprefix("torch.")
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=rtol, atol=rtol)
    upstream = np.random.default_rng(4).standard_normal(y.shape).astype(dtype)
    y.backward(mg.tensor(upstream))
    z.backward(torch.tensor(upstream))
    for a, b in zip(ours, theirs):
        if b.grad is not None:
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=rtol, atol=rtol * 10)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"is_causal": True},
        {"scale": 0.2},
        {"is_causal": True, "scale": 1.5},
        {"attn_mask": "bool"},
        {"attn_mask": "float"},
    ],
    ids=str,
)
@pytest.mark.parametrize("T, S", [(1, 1), (5, 5), (3, 7), (7, 3), (33, 33)])
def test_attention(T, S, settings):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 3, n, 4)) for n in (T, S, S)]
    mask = rng.standard_normal((T, S))
    mask[:, 0] = 1
    masks = {"bool": mask > 0, "float": mask}
    ours, theirs = dict(settings), dict(settings)
    if "attn_mask" in settings:
        ours["attn_mask"] = mg.tensor(masks[settings["attn_mask"]])
        theirs["attn_mask"] = torch.tensor(masks[settings["attn_mask"]])
    a = [mg.tensor(x, requires_grad=True) for x in arrays]
    b = [torch.tensor(x, requires_grad=True) for x in arrays]
    q, k, v = a
    y, z = mF.scaled_dot_product_attention(q, k, v, **ours), tF.scaled_dot_product_attention(*b, **theirs)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-10, atol=1e-12)
    upstream = rng.standard_normal(y.shape)
    y.backward(mg.tensor(upstream))
    z.backward(torch.tensor(upstream))
    for x, w in zip(a, b):
        np.testing.assert_allclose(x.grad.numpy(), w.grad.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape, target_shape", [((7, 5), (7,)), ((5,), ()), ((3, 5, 4), (3, 4)), ((2, 5, 3, 2), (2, 3, 2))])
def test_cross_entropy(shape, target_shape, reduction, label_smoothing):
    rng = np.random.default_rng(1)
    logits = rng.standard_normal(shape) * 3
    targets = rng.integers(0, 5, target_shape)
    if target_shape:
        targets.reshape(-1)[::3] = -100
    settings = {"reduction": reduction, "label_smoothing": label_smoothing}
    x, w = mg.tensor(logits, requires_grad=True), torch.tensor(logits, requires_grad=True)
    y, z = mF.cross_entropy(x, mg.tensor(targets), **settings), tF.cross_entropy(w, torch.tensor(targets), **settings)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-12)
    (y * y).sum().backward()
    (z * z).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), w.grad.numpy(), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_query_that_sees_no_key(kind):
    mask = np.array([[True, False], [False, False]])
    mask = mask if kind == "bool" else np.where(mask, 0.0, -np.inf)
    arrays = [np.random.default_rng(i).standard_normal((1, 1, 2, 3)) for i in range(3)]
    a = [mg.tensor(x, requires_grad=True) for x in arrays]
    b = [torch.tensor(x, requires_grad=True) for x in arrays]
    q, k, v = a
    y = mF.scaled_dot_product_attention(q, k, v, attn_mask=mg.tensor(mask))
    z = tF.scaled_dot_product_attention(*b, attn_mask=torch.tensor(mask))
    np.testing.assert_allclose(y.detach().numpy(), np.nan_to_num(z.detach().numpy()), atol=1e-12)
    y.sum().backward()
    assert all(np.isfinite(x.grad.numpy()).all() for x in a)


def test_nll_loss():
    x = mF.log_softmax(mg.randn(4, 3), -1)
    target = [0, 2, -100, 1]
    for reduction in ("mean", "sum", "none"):
        ours = mF.nll_loss(x, mg.tensor(target), reduction=reduction).numpy()
        theirs = tF.nll_loss(torch.tensor(x.numpy()), torch.tensor(target), reduction=reduction).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


PROMOTIONS = [
    lambda t: t.tensor([1, 2]) / 2,
    lambda t: t.tensor([1, 2]) * 2.5,
    lambda t: t.tensor([1, 2]) + t.tensor([0.5, 1.0]),
    lambda t: t.tensor([1.0]) + t.tensor(1.0, dtype=t.float64),
    lambda t: t.tensor([1.0]) + t.tensor([1.0], dtype=t.float64),
    lambda t: t.tensor([True, False]) + 1,
    lambda t: t.tensor([True, False]).sum(),
    lambda t: t.tensor([1, 2]).exp(),
    lambda t: t.tensor([True]) * t.tensor([1.5]),
    lambda t: t.arange(3),
    lambda t: t.arange(0, 1, 0.25),
    lambda t: t.tensor(3),
    lambda t: t.tensor([6, 1]) & t.tensor([3, 1]),
    lambda t: ~t.tensor([6]),
    lambda t: ~t.tensor([True]) | t.tensor([True]),
    lambda t: t.tensor([1, 5]).clamp(max=2.5),
    lambda t: t.tensor([1.0]).clamp(0.0, 2.0),
    lambda t: t.tensor([True, False]).max(),
    lambda t: t.tensor([0, 3], dtype=t.int32).min(),
    lambda t: t.cat([t.tensor([1]), t.tensor([0.5])]),
    lambda t: t.tensor(3.0).max(0)[0],
    lambda t: t.tensor([1, 2]) ** 2,
    lambda t: 2 ** t.tensor([1, 2]),
    lambda t: t.full((2,), 1.5),
    lambda t: t.tensor([2, 1]).argmax(),
]


@pytest.mark.parametrize("i", range(len(PROMOTIONS)))
def test_dtype_promotion(i):
    ours, theirs = PROMOTIONS[i](mg), PROMOTIONS[i](torch)
    assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
    np.testing.assert_allclose(ours.numpy(), theirs.numpy())


def test_a_whole_optimisation_follows_pytorchs():
    """30 steps of AdamW with groups, decay and clipping on a small network must end at the same parameters."""
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((16, 6)), rng.integers(0, 3, 16)
    results = []
    for t, F, nn in ((mg, mF, mg.nn), (torch, tF, torch.nn)):
        optim, clip = (mg.optim, mg.optim.clip_grad_norm_) if t is mg else (torch.optim, torch.nn.utils.clip_grad_norm_)
        net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))
        params = list(net.parameters())
        start = np.random.default_rng(1)
        for p in params:
            p.data = t.tensor(start.standard_normal(tuple(p.shape)))
        decayed = [p for p in params if p.ndim > 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": [p for p in params if p.ndim < 2], "lr": 0.02}]
        adamw = optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
        norms = []
        for _ in range(30):
            adamw.zero_grad()
            F.cross_entropy(net(t.tensor(x)), t.tensor(target)).backward()
            norms.append(float(clip(params, 0.5)))
            adamw.step()
        results.append((norms, [p.detach().numpy() for p in params]))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-9)
    for ours, theirs in zip(results[0][1], results[1][1]):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)
