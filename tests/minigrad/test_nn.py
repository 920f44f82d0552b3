"""Modules, optimizer, schedule, generators and files."""

import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from minigrad import serialization
from minigrad.optim import AdamW, clip_grad_norm_, warmup_cosine

unchecked: Any = mg  # for calls that a type checker refuses


class Net(nn.Module):
    head: Any
    wte: Any

    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(5, 4)
        self.body = nn.ModuleList([nn.Linear(4, 4), nn.Dropout(0.5)])
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.wte.weight  # tied
        self.register_buffer("scale", mg.tensor([2.0]))

    def forward(self, ids):
        x = self.wte(ids)
        for layer in self.body:
            x = layer(x)
        return self.head(x) * self.scale


def test_parameters_are_listed_once_and_in_order():
    net = Net()
    assert [n for n, _ in net.named_parameters()] == ["wte.weight", "body.0.weight", "body.0.bias"]
    assert list(net.state_dict()) == ["scale", "wte.weight", "body.0.weight", "body.0.bias", "head.weight"]


def test_a_head_can_be_replaced():
    net = Net().eval()
    net.head = nn.Identity()
    assert net(mg.tensor([[1, 2]])).shape == (1, 2, 4)
    assert "head.weight" not in net.state_dict() and net.wte.weight.requires_grad
    net.body[0].bias = None
    assert "body.0.bias" not in dict(net.named_parameters())
    with pytest.raises(TypeError, match="head: expected a Module or None, got int"):
        net.head = 3
    with pytest.raises(TypeError, match="weight: expected a Parameter or None, got Tensor"):
        net.wte.weight = mg.zeros(5, 4)


def test_tied_parameters_add_their_gradients():
    net = Net().eval()
    net(mg.tensor([[1, 2]])).sum().backward()
    grad_from_head_alone = net.wte.weight.grad.array[0]
    assert np.abs(grad_from_head_alone).min() > 0


def test_load_state_dict_is_strict_and_changes_nothing_on_error():
    net, other = Net(), Net()
    before = {n: t.array.copy() for n, t in net.state_dict().items()}
    state = other.state_dict()
    with pytest.raises(RuntimeError, match="no scale, wte.weight, body.0.weight and 2 more, an unexpected nonsense"):
        net.load_state_dict({"nonsense": mg.zeros(1)})
    with pytest.raises(RuntimeError, match=r"body.0.bias of shape \(3,\) in place of \(4,\)"):
        net.load_state_dict({**state, "body.0.bias": mg.zeros(3)})
    assert all(np.array_equal(before[n], t.array) for n, t in net.state_dict().items())
    assert net.load_state_dict({"scale": mg.tensor([7.0]), "x": mg.zeros(1)}, strict=False)[1] == ["x"]
    assert net.scale.item() == 7
    net.load_state_dict(
        {name: value for name, value in state.items() if name != "head.weight"}
    )  # either name of a tied parameter is enough
    assert all(np.array_equal(t.array, state[n].array) for n, t in net.state_dict().items())


def test_sequential_is_named_and_sliced():
    net = nn.Sequential({"first": nn.Linear(2, 3), "last": nn.Linear(3, 1)})
    assert list(net.state_dict()) == ["first.weight", "first.bias", "last.weight", "last.bias"]
    assert net[:1](mg.ones(4, 2)).shape == (4, 3) and net[-1] is net.last


def test_train_and_eval_reach_every_module():
    net = Net()
    ids = mg.tensor([[1, 2, 3, 4]])
    assert not np.array_equal(net(ids).array, net(ids).array)  # dropout is on
    net.eval()
    assert np.array_equal(net(ids).array, net(ids).array)
    assert all(not m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())


def test_a_missing_super_init_is_an_error():
    class Bad(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\)"):
        Bad()


def test_dropout_zeroes_and_scales():
    x = mg.ones(200, 200)
    y = F.dropout(x, 0.25, generator=mg.Generator(1))
    assert set(np.unique(y.array).tolist()) == {0.0, np.float32(4 / 3).item()}
    assert abs(float(y.mean()) - 1) < 0.01 and abs(float((y.array == 0).mean()) - 0.25) < 0.01
    assert np.array_equal(y.array, F.dropout(x, 0.25, generator=mg.Generator(1)).array)
    assert not np.array_equal(y.array, F.dropout(x, 0.25, generator=mg.Generator(2)).array)
    assert F.dropout(x, 0.25, training=False) is x
    assert not F.dropout(x, 1.0).array.any()
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.Dropout(1.5)


def test_generators_are_reproducible_and_restorable():
    g = mg.Generator(3)
    state = json.loads(json.dumps(g.get_state()))
    first = mg.randn(4, generator=g).array
    assert np.array_equal(mg.randn(4, generator=g.set_state(state)).array, first)
    with pytest.raises(ValueError, match="expected a state from get_state"):
        g.set_state({"state": 1})
    with pytest.raises(ValueError, match="manual_seed: expected a whole number"):
        mg.manual_seed(-1)
    mg.manual_seed(0)
    a = nn.Linear(3, 3).weight.array.copy()
    mg.manual_seed(0)
    assert np.array_equal(a, nn.Linear(3, 3).weight.array)


def test_all_targets_ignored_gives_zero_and_no_nan():
    x = mg.randn(3, 4, requires_grad=True)
    loss = F.cross_entropy(x, mg.tensor([-100, -100, -100]))
    loss.backward()
    assert loss.item() == 0 and not x.grad.array.any()


@pytest.mark.parametrize(
    "act, error, words",
    [
        (lambda: F.cross_entropy(mg.ones(2, 3), mg.tensor([0, 3])), IndexError, "target class 3 is outside 0…2"),
        (lambda: F.cross_entropy(mg.ones(2, 3), mg.tensor([0, -1])), IndexError, "target class -1"),
        (lambda: F.cross_entropy(mg.ones(2, 3), mg.tensor([0])), RuntimeError, r"need targets of shape \(2,\), got \(1,\)"),
        (lambda: F.cross_entropy(mg.ones(2, 3), mg.ones(2)), TypeError, "integers"),
        (
            lambda: unchecked.nn.functional.cross_entropy(mg.ones(2, 3), mg.tensor([0, 1]), weight=mg.ones(3)),
            NotImplementedError,
            "weight",
        ),
        (lambda: F.embedding(mg.tensor([5]), mg.ones(5, 2)), IndexError, "id 5 is outside 0…4"),
        (lambda: F.embedding(mg.ones(1), mg.ones(5, 2)), TypeError, "integers"),
        (lambda: F.linear(mg.ones(2, 3), mg.ones(4, 2)), RuntimeError, r"linear: input \(2, 3\)"),
        (lambda: F.layer_norm(mg.ones(2, 3), 4), RuntimeError, "does not end in 4"),
        (lambda: F.scaled_dot_product_attention(mg.ones(2, 3), mg.ones(2, 3), mg.ones(2, 3)), RuntimeError, r"\(B, H, T, D\)"),
        (lambda: F.softmax(mg.ones(2, 3)), TypeError, "dim="),
        (lambda: unchecked.nn.functional.conv2d(mg.ones(1)), AttributeError, "no 'conv2d'"),
        (lambda: unchecked.nn.LSTM(3, 3), AttributeError, "no 'LSTM'"),
        (lambda: nn.Module()(1), NotImplementedError, "forward"),
        (lambda: nn.Sequential([nn.Identity()]), TypeError, "Sequential: expected Modules, got list"),
        (lambda: unchecked.nn.ModuleList([mg.exp]), TypeError, "ModuleList: expected Modules, got function"),
        (lambda: unchecked.nn.Embedding(3, 2, 0), NotImplementedError, "padding_idx"),
        (lambda: clip_grad_norm_([nn.Parameter(mg.ones(1))], 1.0, 1.0), NotImplementedError, "Euclidean"),
        (lambda: AdamW([{"params": [nn.Parameter(mg.ones(1))], "weigth_decay": 0}]), ValueError, "weigth_decay"),
        (lambda: unchecked.nn.functional.nll_loss(mg.ones(2, 3), mg.tensor([0, 1]), mg.ones(3)), NotImplementedError, "weight"),
        (lambda: F.mse_loss(mg.ones(2), mg.ones(2), reduction="avg"), ValueError, "reduction"),
        (lambda: unchecked.nn.functional.cross_entropy(mg.ones(2, 3), [0, 1]), TypeError, "target must be a tensor"),
        (lambda: F.cross_entropy(mg.tensor([[1, 2]]), mg.tensor([0])), TypeError, "floating-point"),
        (lambda: F.layer_norm(mg.ones(2, 3), 3, mg.ones(2, 3)), RuntimeError, r"expected \(3,\)"),
        (lambda: F.layer_norm(mg.ones(2, 3), 3, mg.ones(3).double()), TypeError, "one dtype"),
        (lambda: nn.Linear(2, 2).load_state_dict({"weight": [1]}), TypeError, "weight is a list"),
        (lambda: AdamW([]), ValueError, "expected parameters, got none"),
        (lambda: AdamW([nn.Parameter(mg.ones(1))], lr=-1), ValueError, "expected lr of at least 0, got -1"),
        (lambda: AdamW([mg.ones(1, requires_grad=True) * 2]), TypeError, "leaves"),
    ],
)
def test_error_messages(act, error, words):
    with pytest.raises(error, match=words):
        act()


def test_adamw_state_can_be_carried_over():
    def train(steps, optimizer, p):
        for _ in range(steps):
            optimizer.zero_grad()
            ((p - 3) * (p - 3)).sum().backward()
            optimizer.step()

    straight = nn.Parameter(mg.tensor([1.0, 5.0]))
    train(20, AdamW([straight], lr=0.1), straight)
    p = nn.Parameter(mg.tensor([1.0, 5.0]))
    first = AdamW([p], lr=0.1)
    train(7, first, p)
    second = AdamW([p], lr=0.5)
    second.load_state_dict(first.state_dict())
    train(13, second, p)
    assert np.array_equal(p.array, straight.array)
    with pytest.raises(ValueError, match="moments of shape"):
        AdamW([nn.Parameter(mg.ones(3))]).load_state_dict(first.state_dict())
    state = first.state_dict()
    with pytest.raises(ValueError, match="this state is of parameter 1, and the optimizer has 1 parameters"):
        second.load_state_dict({**state, "state": {1: state["state"][0]}})
    del state["state"][0]["exp_avg_sq"]
    with pytest.raises(ValueError, match="the state of parameter 0 lacks exp_avg_sq"):
        second.load_state_dict(state)


def test_clipping():
    p = nn.Parameter(mg.zeros(2))
    p.grad = mg.tensor([3.0, 4.0])
    assert float(clip_grad_norm_([p], 1.0)) == pytest.approx(5.0)
    np.testing.assert_allclose(p.grad.array, [0.6, 0.8], rtol=1e-6)
    assert float(clip_grad_norm_([p], 10.0)) == pytest.approx(1.0, rel=1e-6)
    p.grad = mg.tensor([np.inf, 4.0])
    with pytest.raises(RuntimeError, match="norm of the gradients is inf"):
        clip_grad_norm_([p], 1.0, error_if_nonfinite=True)


def test_the_schedule_never_wastes_a_step():
    rates = [warmup_cosine(s, lr=1.0, min_lr=0.1, warmup_steps=10, total_steps=100) for s in range(120)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[99] == pytest.approx(0.1) and min(rates) >= 0.1 - 1e-12 and rates[119] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:]))
    for total in (1, 2, 3):
        assert all(warmup_cosine(s, lr=1.0, min_lr=0.1, warmup_steps=0, total_steps=total) >= 0.1 for s in range(total))
    assert warmup_cosine(0, lr=1.0, min_lr=0.1, warmup_steps=0, total_steps=1) > 0


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "model.safetensors"
    serialization.save(path, {"a": mg.ones(2, 3), "b": np.arange(3), "t": mg.ones(2, 3).T}, {"note": "hello"})
    arrays, metadata = serialization.load(path)
    assert arrays["a"].dtype == np.float32 and arrays["b"].tolist() == [0, 1, 2] and metadata == {"note": "hello"}
    assert arrays["t"].shape == (3, 2) and list(tmp_path.iterdir()) == [path]
    whole = path.read_bytes()
    for cut in (0, 5, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:cut])
        with pytest.raises(serialization.CheckpointError, match="not a whole .safetensors file"):
            serialization.load(tmp_path / "cut")
    with pytest.raises(serialization.CheckpointError, match="found none at"):
        serialization.load(tmp_path / "absent")
    with pytest.raises(serialization.CheckpointError, match="cannot write"):
        serialization.save(path / "below-a-file", {"a": mg.ones(1)})
    assert path.read_bytes() == whole


def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    with pytest.raises(TypeError, match="metadata must map strings to strings, got 'step': int"):
        unchecked.serialization.save(path, {"a": mg.ones(2)}, {"step": 3})
    with pytest.raises(serialization.CheckpointError, match="dtype complex128"):
        serialization.save(path, {"a": np.zeros(2, complex)})

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(serialization.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        serialization.save(path, {"a": mg.ones(2)})
    assert not list(tmp_path.iterdir())


def test_every_array_of_a_file_is_aligned(tmp_path):
    path, dtypes = tmp_path / "a.safetensors", ("int8", "float64", "bool", "float32", "int16")
    arrays = {dtype: np.arange(3).astype(dtype) for dtype in dtypes}
    serialization.save(path, arrays)
    entries, _ = serialization.read_header(path)
    assert entries.keys() == arrays.keys()
    for name, entry in entries.items():
        assert entry.begin % arrays[name].itemsize == 0
        np.testing.assert_array_equal(serialization.load(path)[0][name], arrays[name])


def test_a_changed_bit_is_refused_and_a_file_without_a_checksum_loads(tmp_path):
    path, weights = tmp_path / "a.safetensors", {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float16)}
    serialization.save(path, weights, {"step": "3"})
    whole = path.read_bytes()
    assert serialization.load(path)[1] == {"step": "3"}
    for data in (whole[:-1] + b"\x01", whole.replace(b'"step":"3"', b'"step":"8"'), whole.replace(b"[2,3]", b"[3,2]")):
        path.write_bytes(data)
        with pytest.raises(serialization.CheckpointError, match="its checksum does not fit its contents"):
            serialization.load(path)
    safetensors.numpy.save_file(weights, path, {"step": "3"})
    arrays, metadata = serialization.load(path)
    assert metadata == {"step": "3"} and all(np.array_equal(arrays[name], weights[name]) for name in weights)
    serialization.save(path, weights)
    assert safetensors.numpy.load_file(path).keys() == weights.keys()


@pytest.mark.parametrize("dtype", ["F8_E4M3", "BF16"])
def test_a_dtype_that_numpy_lacks_is_refused_by_name(tmp_path, dtype):
    size = {"F8_E4M3": 2, "BF16": 1}[dtype]
    header = json.dumps({"a": {"dtype": dtype, "shape": [size], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"ab")
    with pytest.raises(serialization.CheckpointError, match=f"a is stored as {dtype}, expected F64"):
        serialization.load(tmp_path / "a.safetensors")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    serialization.save(path, {"a": mg.ones(2)})
    whole = path.read_bytes()

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(serialization.os, "fsync", full_disk)
    with pytest.raises(serialization.CheckpointError, match="No space left on device"):
        serialization.save(path, {"a": mg.zeros(2)})
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


def test_forward_hooks_see_and_replace():
    layer, seen = nn.Linear(3, 2), []
    x = mg.randn(4, 3)
    before = layer.register_forward_pre_hook(lambda module, args: args[0] * 0)
    after = layer.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    doubled = layer.register_forward_hook(lambda module, args, output: output * 2)
    np.testing.assert_allclose(layer(x).array, np.broadcast_to(2 * layer.bias.array, (4, 2)))
    assert not seen[0][0].array.any() and seen[0][1].shape == (4, 2)
    for handle in (before, after, doubled):
        handle.remove()
    np.testing.assert_allclose(layer(x).array, F.linear(x, layer.weight, layer.bias).array)
    assert len(seen) == 1
