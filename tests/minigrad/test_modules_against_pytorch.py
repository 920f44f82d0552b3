"""Layers, losses, initial values and the module tree against PyTorch, over their options (skipped without it)."""

import copy
import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F

torch = pytest.importorskip("torch")
unchecked: Any = mg  # for calls that a type checker refuses


def both(array):
    """The array as a leaf of each library."""
    return [t.tensor(array, requires_grad=array.dtype.kind == "f") for t in (mg, torch)]


def close(ours, theirs, rtol=1e-10, atol=1e-12):
    assert tuple(ours.shape) == tuple(theirs.shape) and str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=rtol, atol=atol)


# ── losses ──

PROBABILITIES = np.array([[0.2, 1.0, 0.0], [0.7, 0.5, 1e-30]])
TARGETS = np.array([[0.0, 1.0, 0.0], [1.0, 0.3, 1.0]])
LOGITS = np.array([[0.5, -3.0, 90.0], [-800.0, 0.0, 2.0]])
DISTRIBUTION = np.array([[0.2, 0.8, 0.0], [0.5, 0.25, 0.25]])
WEIGHT = np.array([0.5, 2.0, 3.0])

LOSSES = {  # name -> the function of a library's F and its tensor(), and the inputs
    "binary_cross_entropy": (lambda F, n, a, b, **r: F.binary_cross_entropy(a, b, **r), PROBABILITIES, TARGETS),
    "binary_cross_entropy, weight": (
        lambda F, n, a, b, **r: F.binary_cross_entropy(a, b, n(WEIGHT), **r),
        PROBABILITIES,
        TARGETS,
    ),
    "with logits": (lambda F, n, a, b, **r: F.binary_cross_entropy_with_logits(a, b, **r), LOGITS, TARGETS),
    "with logits, weight": (lambda F, n, a, b, **r: F.binary_cross_entropy_with_logits(a, b, n(WEIGHT), **r), LOGITS, TARGETS),
    "with logits, pos_weight": (
        lambda F, n, a, b, **r: F.binary_cross_entropy_with_logits(a, b, pos_weight=n(WEIGHT), **r),
        LOGITS,
        TARGETS,
    ),
    "kl_div": (lambda F, n, a, b, **r: F.kl_div(F.log_softmax(a, -1), b, **r), LOGITS / 90, DISTRIBUTION),
    "kl_div, log_target": (lambda F, n, a, b, **r: F.kl_div(a, b, log_target=True, **r), LOGITS / 90, LOGITS / 70),
    "l1_loss": (lambda F, n, a, b, **r: F.l1_loss(a, b, **r), LOGITS, TARGETS),
    "mse_loss": (lambda F, n, a, b, **r: F.mse_loss(a, b, **r), LOGITS, TARGETS),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batchmean"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, reduction):
    if reduction == "batchmean" and not name.startswith("kl"):
        pytest.skip("only kl_div has it")
    loss, first, second = LOSSES[name]
    results = []
    for t, functional in ((mg, F), (torch, torch.nn.functional)):
        a, b = t.tensor(first, requires_grad=True), t.tensor(second, requires_grad=name != "kl_div")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of kl_div's mean
            y = loss(functional, t.tensor, a, b, reduction=reduction)
        (y * y).sum().backward()
        results.append((y, a.grad, b.grad))
    for ours, theirs in zip(*results):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            close(ours, theirs, 1e-8)  # PyTorch's smallest denominator is a float32 1e-12


LOSS_MODULES = {
    "CrossEntropyLoss": (dict(ignore_index=2, label_smoothing=0.1), LOGITS, np.array([0, 1])),
    "NLLLoss": (dict(ignore_index=1, reduction="sum"), LOGITS, np.array([2, 1])),
    "MSELoss": (dict(reduction="none"), LOGITS, TARGETS),
    "L1Loss": (dict(), LOGITS, TARGETS),
    "BCELoss": (dict(weight=WEIGHT), PROBABILITIES, TARGETS),
    "BCEWithLogitsLoss": (dict(weight=WEIGHT, pos_weight=WEIGHT), LOGITS, TARGETS),
    "KLDivLoss": (dict(reduction="batchmean", log_target=True), LOGITS, LOGITS * 0.5),
}


@pytest.mark.parametrize("name", LOSS_MODULES)
def test_loss_modules(name):
    settings, first, second = LOSS_MODULES[name]
    modules, values = [], []
    for t in (mg, torch):
        made = {key: t.tensor(value) if isinstance(value, np.ndarray) else value for key, value in settings.items()}
        modules.append(getattr(t.nn, name)(**made))
        values.append(modules[-1](t.tensor(first), t.tensor(second)))
    close(*values)
    assert list(modules[0].state_dict()) == list(modules[1].state_dict())


@pytest.mark.parametrize(
    "make",
    [
        lambda n: n.SiLU(),
        lambda n: n.Sigmoid(),
        lambda n: n.Softmax(dim=0),
        lambda n: n.Softmax(-1),
        lambda n: n.LogSoftmax(dim=1),
        lambda n: n.Flatten(),
        lambda n: n.Flatten(0, 1),
        lambda n: n.ReLU(False),
        lambda n: n.GELU(approximate="tanh"),
        lambda n: n.Tanh(),
    ],
)
def test_activations(make):
    x = np.random.default_rng(0).standard_normal((2, 3, 2)) * 5
    a, b = both(x)
    mine, pytorchs = make(nn), make(torch.nn)
    y, z = mine(a), pytorchs(b)
    close(y, z)
    (y**2).sum().backward()
    (z**2).sum().backward()
    close(a.grad, b.grad)
    assert repr(mine) == repr(pytorchs) or "GELU" in repr(mine)


# ── attention ──

N, H, E, L, S = 2, 2, 6, 3, 4


def attention_modules(**settings):
    """The same layer in both libraries, in float64, with biases that are not zero."""
    mine, pytorchs = nn.MultiheadAttention(E, H, **settings).double(), torch.nn.MultiheadAttention(E, H, **settings).double()
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(tensor.shape) for name, tensor in mine.state_dict().items()}
    mine.load_state_dict(state)
    pytorchs.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    assert list(mine.state_dict()) == list(pytorchs.state_dict())
    return mine, pytorchs


def masks(kind, batch=N):
    """(attn_mask, key_padding_mask); in each every query sees the first key."""
    rng = np.random.default_rng(1)
    hidden, padding, per_head = rng.random((L, S)) > 0.5, rng.random((batch, S)) > 0.5, rng.random((batch * H, L, S)) > 0.5
    hidden[:, 0] = padding[:, 0] = per_head[:, :, 0] = False
    return {
        "none": (None, None),
        "boolean": (hidden, None),
        "float": (np.where(hidden, -np.inf, rng.standard_normal((L, S))), None),
        "each head": (per_head, None),
        "padding": (None, padding),
        "both": (hidden, padding),
        "float and boolean": (rng.standard_normal((L, S)), padding),
    }[kind]


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("need_weights, average", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("kind", ["none", "boolean", "float", "each head", "padding", "both", "float and boolean"])
def test_multihead_attention(settings, need_weights, average, kind):
    rng = np.random.default_rng(2)
    shapes = [(N, size, E) if settings.get("batch_first") else (size, N, E) for size in (L, S, S)]
    arrays, made = [rng.standard_normal(shape) for shape in shapes], masks(kind)
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of mixed masks
        for t, module in zip((mg, torch), attention_modules(**settings)):
            q, k, v = inputs = [t.tensor(array, requires_grad=True) for array in arrays]
            attn_mask, padding = (None if mask is None else t.tensor(mask) for mask in made)
            y, weights = module(q, k, v, padding, need_weights, attn_mask, average)
            ((y * y).sum() + (0 if weights is None else (weights**2).sum())).backward()
            results.append([y, weights, *(x.grad for x in inputs), *(p.grad for p in module.parameters())])
    for ours, theirs in zip(*results):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            close(ours, theirs, 1e-9, 1e-10)


def test_self_attention_and_no_batch():
    x = np.random.default_rng(3).standard_normal((L, E))
    mine, pytorchs = attention_modules(dropout=0.5)
    a, b = both(x)
    for ours, theirs in zip(mine.eval()(a, a, a), pytorchs.eval()(b, b, b)):
        close(ours, theirs)
    a, b = a.reshape(L, 1, E), b.reshape(L, 1, E)
    causal = np.triu(np.ones((L, L), bool), 1)
    y, _ = mine(a, a, a, need_weights=False, attn_mask=mg.tensor(causal), is_causal=True)
    z, _ = pytorchs(b, b, b, need_weights=False, attn_mask=torch.tensor(causal), is_causal=True)
    close(y, z)


def test_attention_weights_are_dropped_while_training():
    layer = nn.MultiheadAttention(E, H, dropout=0.5)
    x = mg.randn(5, 1, E)
    first, second = (layer(x, x, x)[1].numpy(force=True) for _ in range(2))
    assert (first == 0).any() and not np.array_equal(first, second)
    assert (layer.eval()(x, x, x)[1].numpy(force=True) > 0).all()


# ── initial values ──


@pytest.mark.parametrize(
    "fill, shape, settings",
    [
        ("xavier_uniform_", (80, 120), {}),
        ("xavier_uniform_", (60, 20, 8), {"gain": 2.0}),
        ("xavier_normal_", (80, 120), {"gain": 0.5}),
        ("kaiming_uniform_", (80, 120), {"a": 5**0.5}),
        ("kaiming_uniform_", (80, 120), {"mode": "fan_out", "nonlinearity": "relu"}),
        ("kaiming_normal_", (80, 120), {}),
        ("kaiming_normal_", (60, 20, 8), {"mode": "fan_out", "nonlinearity": "tanh"}),
        ("normal_", (80, 120), {"mean": 1.0, "std": 3.0}),
        ("uniform_", (80, 120), {"a": -1.0, "b": 3.0}),
        ("trunc_normal_", (80, 120), {"std": 2.0, "a": -1.0, "b": 3.0}),
        ("trunc_normal_", (80, 120), {"mean": 10.0}),
        ("trunc_normal_", (80, 120), {"mean": -3.0, "std": 0.5}),
        ("trunc_normal_", (80, 120), {"a": -0.1, "b": 0.2}),
        ("trunc_normal_", (80, 120), {"a": 0.6, "b": 2.5}),
    ],
)
@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
def test_initial_values_follow_pytorchs_law(fill, shape, settings):
    mg.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = getattr(nn.init, fill)(mg.zeros(*shape), **settings), torch.zeros(shape)
    getattr(torch.nn.init, fill)(theirs, **settings)
    a, b = ours.numpy(), theirs.numpy()
    scale = b.std()
    # Three standard errors of 9,600 numbers: the tail beyond a far mean is about exponential, with a kurtosis of 9.
    spread = 0.06 if "mean" in settings and "trunc" in fill else 0.03
    assert abs(a.mean() - b.mean()) < 0.06 * scale and abs(a.std() / scale - 1) < spread
    if ("uniform" in fill or "trunc" in fill) and "mean" not in settings:  # a far mean makes one end rare
        assert abs(a.max() - b.max()) < 0.01 * scale + 0.01 and abs(a.min() - b.min()) < 0.01 * scale + 0.01


@pytest.mark.parametrize(
    "name, param", [("linear", None), ("relu", None), ("tanh", None), ("leaky_relu", 0.2), ("leaky_relu", None)]
)
def test_gains(name, param):
    assert nn.init.calculate_gain(name, param) == pytest.approx(torch.nn.init.calculate_gain(name, param), rel=1e-15)


# ── the tree ──


def nets():
    """The same small tree in both libraries: shared and transient parts, containers, a frozen parameter."""
    made = []
    for t in (mg, torch):
        n = t.nn
        net = n.Module()
        net.layers = n.ModuleList([n.Linear(2, 3), n.Linear(3, 2, bias=False)])
        net.parts = n.ModuleDict({"norm": n.LayerNorm(2), "act": n.Tanh()})
        net.body = n.Sequential(n.Linear(2, 2), n.Sequential(n.Linear(2, 2)), net.layers[0])
        net.free = n.Parameter(t.ones(2))
        net.tied = net.free
        net.register_buffer("mask", t.ones(3))
        net.register_buffer("cache", t.zeros(2), persistent=False)
        net.register_buffer("later", None)
        net.add_module("nothing", None)
        made.append(net)
    return made


@pytest.mark.parametrize(
    "walk",
    [
        lambda m: list(m.state_dict()),
        lambda m: [name for name, _ in m.named_parameters()],
        lambda m: [name for name, _ in m.named_parameters(prefix="x", recurse=False)],
        lambda m: [name for name, _ in m.named_parameters(remove_duplicate=False)],
        lambda m: [name for name, _ in m.named_buffers()],
        lambda m: len(list(m.buffers())),
        lambda m: len(list(m.parameters(recurse=False))),
        lambda m: [name for name, _ in m.named_children()],
        lambda m: [name for name, _ in m.named_modules()],
        lambda m: len(list(m.children())) + len(list(m.modules())),
        lambda m: tuple(m.get_parameter("parts.norm.weight").shape),
        lambda m: tuple(m.get_buffer("mask").shape),
        lambda m: type(m.get_submodule("body.1.0")).__name__,
        lambda m: [
            list(m.parts),
            list(m.parts.keys()),
            len(m.parts),
            "act" in m.parts,
            m.parts.pop("act") is not None,
            len(m.parts),
        ],
        lambda m: list(m.body[1:].state_dict()),
        lambda m: list(m.layers[1:].state_dict()),
        lambda m: [m.layers.extend([m.body[0]]), m.layers.insert(0, m.body[1]), list(m.layers.state_dict())][2],
        lambda m: [m.layers.__delitem__(0), list(m.layers.state_dict())][1],
        lambda m: [m.body.__setitem__(0, m.layers[1]), list(m.body.state_dict())][1],
        lambda m: [m.register_buffer("cache", m.mask), list(m.state_dict())][1],
        lambda m: [m.__delattr__("mask"), list(m.state_dict())][1],
        lambda m: list(copy.deepcopy(m).state_dict()),
        lambda m: [m.half(), str(m.free.dtype)[-7:], str(m.cache.dtype)[-7:]][1:],
    ],
)
def test_walks_over_the_tree(walk):
    ours, theirs = (walk(net) for net in nets())
    assert ours == theirs


def test_transient_buffers_move_but_are_not_saved():
    net, _ = nets()
    net.load_state_dict({name: tensor for name, tensor in net.state_dict().items()})
    net.double()
    assert net.cache.dtype == mg.float64 and "cache" not in net.state_dict()
    net.cache = mg.ones(5)
    assert "cache" not in net.state_dict() and dict(net.named_buffers())["cache"].shape == (5,)


def test_assigning_a_state_takes_its_tensors():
    layer = nn.Linear(2, 3)
    layer.bias.requires_grad_(False)
    state = {"weight": mg.ones(3, 2).double(), "bias": mg.zeros(3).double()}
    layer.load_state_dict(state, assign=True)
    assert layer.weight.array is state["weight"].array and isinstance(layer.weight, nn.Parameter)
    assert layer.weight.requires_grad and not layer.bias.requires_grad


def test_kl_div_of_a_target_of_zero():
    grads = []
    for t in (mg, torch):
        x, target = t.tensor([-1.0, -2.0], requires_grad=True), t.tensor([0.0, 0.5], requires_grad=True)
        loss = t.nn.functional.kl_div(x, target, reduction="sum")
        loss.backward()
        grads.append([loss.item(), *x.grad.tolist(), *target.grad.tolist()])
    np.testing.assert_allclose(*grads, rtol=1e-6)
    assert np.isnan(grads[0][3])


def test_the_mean_without_targets_is_nan():
    for loss in (F.cross_entropy, F.nll_loss):
        assert np.isnan(loss(mg.ones(0, 5), mg.ones(0).long()).item())
    assert F.cross_entropy(mg.ones(0, 5), mg.ones(0).long(), reduction="sum").item() == 0


def names_after_changes(t):
    """The modules of containers that grow and shrink."""
    n = t.nn
    body = n.Sequential(n.ReLU(), n.Tanh(), n.GELU(), n.Sigmoid())
    layers = n.ModuleList([n.ReLU(), n.Tanh()])
    layers += [n.GELU()]
    longer = layers + [n.Sigmoid()]
    popped = [layers.pop(0), body.pop(-1)]
    body += n.Sequential(n.SiLU())
    body.insert(-1, n.Tanh())
    both = body + body
    del body[0:2]
    del longer[::2]
    named = n.Sequential(OrderedDict(a=n.ReLU(), b=n.Tanh(), c=n.GELU()))
    part = named[1:]
    del named[1]
    containers = [body, layers, longer, both, named, part, n.ModuleList(None)]
    return popped, [[(name, type(module).__name__) for name, module in m.named_children()] for m in containers]


def test_containers_grow_and_shrink():
    (ours, our_names), (theirs, their_names) = names_after_changes(mg), names_after_changes(torch)
    assert our_names == their_names and [*map(repr, ours)] == [*map(repr, theirs)]


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_sizes_of_zero():
    for t in (mg, torch):
        layer, x = t.nn.Linear(0, 3), t.ones(2, 0, requires_grad=True)
        layer(x).sum().backward()
        assert layer.bias.tolist() == [0, 0, 0] and layer.weight.grad.shape == (3, 0)
        assert t.nn.init.kaiming_normal_(t.empty(0, 3)).shape == (0, 3)
        attention, no_keys = t.nn.MultiheadAttention(4, 2, batch_first=True), t.ones(1, 0, 4)
        for options in ({}, {"need_weights": False}, {"attn_mask": t.ones(2, 0)}):
            y, weights = attention(t.ones(1, 2, 4), no_keys, no_keys, **options)
            assert y.tolist() == [[[0] * 4] * 2] and (weights is None or weights.shape == (1, 2, 0))


def test_a_tensor_stands_for_its_dtype():
    assert nn.Linear(2, 2).to(mg.ones(1).double()).weight.dtype == mg.float64


def test_to_takes_keywords():
    layer = nn.Linear(2, 2).to(device="cpu", dtype=mg.float64, non_blocking=True)
    assert layer.weight.dtype == mg.float64
    assert nn.Linear(2, 2, True, "cpu", mg.float64).bias.dtype == mg.float64
    assert nn.Embedding(2, 2, device="cpu").weight.device == nn.LayerNorm(2, device="cpu").weight.device == "cpu"


@pytest.mark.parametrize(
    "act, error, words",
    [
        (lambda: F.binary_cross_entropy(mg.tensor([2.0]), mg.tensor([1.0])), RuntimeError, "input between 0 and 1, got 2.0"),
        (lambda: F.binary_cross_entropy(mg.tensor([np.nan]), mg.ones(1)), RuntimeError, "input between 0 and 1, got nan"),
        (lambda: F.binary_cross_entropy(mg.ones(1), mg.tensor([-1.0])), RuntimeError, "target between 0 and 1, got -1.0"),
        (lambda: F.binary_cross_entropy(mg.ones(3), mg.ones(3), mg.ones(2, 3)), RuntimeError, r"broadcasts to \(3,\)"),
        (
            lambda: F.binary_cross_entropy_with_logits(mg.ones(1), mg.ones(1), pos_weight=mg.ones(3)),
            RuntimeError,
            r"expected a weight that broadcasts to \(1,\), got shape \(3,\)",
        ),
        (lambda: unchecked.nn.functional.mse_loss(mg.ones(1), np.ones(1)), TypeError, "target must be a tensor, got ndarray"),
        (lambda: F.binary_cross_entropy(mg.ones(2), mg.ones(3)), RuntimeError, r"shapes \(2,\) and \(3,\)"),
        (lambda: F.binary_cross_entropy_with_logits(mg.ones(2), mg.tensor([0, 1])), TypeError, "floating-point"),
        (lambda: F.kl_div(mg.ones(2), mg.ones(2), reduction="batch"), ValueError, "'batchmean', got 'batch'"),
        (lambda: F.mse_loss(mg.ones(2), mg.ones(2), reduction="batchmean"), ValueError, "reduction 'mean', 'sum', 'none'"),
        (lambda: unchecked.nn.CrossEntropyLoss(mg.ones(2)), NotImplementedError, "weight is not implemented"),
        (lambda: unchecked.nn.MSELoss(True), NotImplementedError, "MSELoss: size_average"),
        (lambda: nn.ReLU(inplace=True), NotImplementedError, "ReLU: inplace=True"),
        (lambda: nn.Dropout(0.1, True), NotImplementedError, "Dropout: inplace=True"),
        (lambda: nn.MultiheadAttention(6, 4), ValueError, "multiple of num_heads, got 6, 4"),
        (lambda: nn.MultiheadAttention(6, 2, kdim=3), NotImplementedError, "kdim and vdim are not implemented"),
        (lambda: nn.MultiheadAttention(6, 2)(*[mg.ones(1, 1, 6)] * 3, is_causal=True), RuntimeError, "needs attn_mask"),
        (lambda: nn.MultiheadAttention(6, 2)(*[mg.ones(1, 1, 4)] * 3), RuntimeError, r"query \(N, L, 6\)"),
        (
            lambda: nn.MultiheadAttention(6, 2)(*[mg.ones(3, 1, 6)] * 3, attn_mask=mg.ones(3)),
            RuntimeError,
            r"attn_mask of shape \(3, 3\) or \(2, 3, 3\), got \(3,\)",
        ),
        (
            lambda: nn.MultiheadAttention(6, 2)(*[mg.ones(3, 1, 6)] * 3, attn_mask=mg.ones(3, 3).long()),
            TypeError,
            "boolean or float mask, got int64",
        ),
        (lambda: nn.init.xavier_uniform_(mg.ones(3)), ValueError, "at least 2 axes"),
        (lambda: nn.init.kaiming_normal_(mg.ones(3, 3), mode="fan"), ValueError, "'fan_in' or 'fan_out', got 'fan'"),
        (lambda: nn.init.kaiming_normal_(mg.ones(3, 3), nonlinearity="gelu"), ValueError, "got 'gelu'"),
        (lambda: nn.init.trunc_normal_(mg.ones(3), a=2.0, b=1.0), RuntimeError, "a of at most b"),
        (lambda: nn.init.trunc_normal_(mg.ones(3), float("nan")), RuntimeError, "expected finite mean"),
        (lambda: nn.init.trunc_normal_(mg.ones(3), std=0.0), RuntimeError, "std above 0"),
        (lambda: nn.init.normal_(mg.ones(3).long()), TypeError, "normal_: expected a floating-point tensor, got int64"),
        (lambda: unchecked.nn.init.normal_(np.ones(3)), TypeError, "expected a floating-point tensor, got ndarray"),
        (lambda: nn.init.normal_(mg.ones(3), std=-1), RuntimeError, "normal_: expected std of at least 0, got -1"),
        (lambda: nn.init.uniform_(mg.ones(3), 2, 1), RuntimeError, "uniform_: expected a of at most b, got a=2, b=1"),
        (lambda: nn.Linear(-1, 3), ValueError, r"Linear: expected whole sizes of at least 0, got \(3, -1\)"),
        (lambda: unchecked.nn.LayerNorm(2.5), ValueError, "LayerNorm: expected whole sizes"),
        (lambda: nn.Linear(2, 2).to(mg.int64), TypeError, "Linear.to: expected a floating-point dtype, got int64"),
        (lambda: unchecked.nn.Tanh().train("yes"), ValueError, "train: expected True or False as mode, got 'yes'"),
        (lambda: setattr(nets()[0], "mask", 3), TypeError, "mask: expected a tensor or None, got int"),
        (lambda: F.relu(mg.ones(2), inplace=True), NotImplementedError, "relu: inplace=True"),
        (lambda: nn.ModuleDict({"type": nn.Tanh()}), KeyError, "another attribute 'type'"),
        (lambda: unchecked.nn.ModuleDict({1: nn.Tanh()}), TypeError, "expected a string as name, got 1"),
        (lambda: unchecked.nn.ModuleDict(3), TypeError, "expected a dict or pairs of names and Modules, got int"),
        (lambda: unchecked.nn.ModuleList(nn.Tanh()), TypeError, "expected an iterable of Modules, got Tanh"),
        (lambda: nn.Sequential(nn.Tanh()).insert(5, nn.Tanh()), IndexError, "index 5 is out of range for 1"),
        (lambda: unchecked.nn.Sequential() + [nn.Tanh()], ValueError, "expected a Sequential to add, got list"),
        (lambda: nn.Sequential(nn.Tanh())["a"], TypeError, "expected an integer as index, got 'a'"),
        (lambda: unchecked.nn.Tanh().load_state_dict(None), TypeError, "expected a dict of tensors, got NoneType"),
        (lambda: unchecked.nn.init.orthogonal_(mg.ones(3, 3)), AttributeError, "no 'orthogonal_'"),
        (lambda: nn.ModuleDict({"a.b": nn.Tanh()}), KeyError, "without dots"),
        (lambda: nn.ModuleDict({"keys": nn.Tanh()}), KeyError, "another attribute 'keys'"),
        (lambda: unchecked.nn.ModuleDict({"a": 3}), TypeError, "expected a Module or None as a, got int"),
        (lambda: nn.ModuleList([nn.Tanh()])[1], IndexError, "index 1 is out of range for 1"),
        (lambda: unchecked.nn.Linear(1, 1).register_buffer("x", 3), TypeError, "expected a tensor or None as x, got int"),
        (lambda: nn.Linear(1, 1).register_buffer("weight", mg.ones(1)), KeyError, "another attribute 'weight'"),
        (lambda: unchecked.nn.Linear(1, 1).register_parameter("x", mg.ones(1)), TypeError, "expected a Parameter or None"),
        (lambda: nn.Linear(1, 1).get_submodule("a"), AttributeError, "Linear has no module 'a'"),
        (lambda: nn.Linear(1, 1).get_parameter("a"), AttributeError, "none named 'a'"),
    ],
)
def test_what_is_refused(act, error, words):
    with pytest.raises(error, match=words):
        act()
