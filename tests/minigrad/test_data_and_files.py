"""Data loaders, files, the GPU's names and compile; against PyTorch where it is installed."""

import configparser
import json
import math
import operator
import pickle
import warnings
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn as nn
from minigrad import serialization
from minigrad.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

unchecked: Any = mg  # for calls that a type checker refuses
Pair = namedtuple("Pair", "x y")


def plain(value):
    """Tensors of either library as (dtype, nested lists), inside containers."""
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return str(value.dtype).removeprefix("torch."), value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, [plain(item) for item in value])
    return value


# ── data ──

EXAMPLES = {  # what a data set of five examples gives for index i, with the library's module
    "numbers": lambda t, i: i,
    "floats": lambda t, i: i / 2,
    "booleans": lambda t, i: i > 1,
    "strings": lambda t, i: "abcde"[i],
    "tensors": lambda t, i: t.tensor([i, i * i]),
    "arrays": lambda t, i: np.array([i, 0.5]),
    "NumPy numbers": lambda t, i: np.float32(i),
    "pairs": lambda t, i: (t.tensor([1.0 * i]), i),
    "lists": lambda t, i: [i, [i, "x"]],
    "dicts": lambda t, i: {"ids": t.tensor([i]), "label": i % 2, "text": str(i)},
    "named tuples": lambda t, i: Pair(i, float(i)),
}


class Examples(Dataset):
    def __init__(self, t, make):
        self.t, self.make = t, make

    def __len__(self):
        return 5

    def __getitem__(self, i):
        return self.make(self.t, i)


@pytest.mark.parametrize(
    "settings", [{}, {"batch_size": 2}, {"batch_size": 3, "drop_last": True}, {"batch_size": None}], ids=str
)
@pytest.mark.parametrize("name", EXAMPLES)
def test_batches_are_pytorchs(name, settings):
    torch = pytest.importorskip("torch")
    batches = [
        [plain(batch) for batch in t.utils.data.DataLoader(Examples(t, EXAMPLES[name]), **settings)] for t in (mg, torch)
    ]
    assert batches[0] == batches[1] and batches[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda d, x: d.DataLoader(d.TensorDataset(x, x * 2), batch_size=4),
        lambda d, x: d.DataLoader(d.Subset(d.TensorDataset(x), [5, 0, 2]), batch_size=2),
        lambda d, x: d.DataLoader(d.ConcatDataset([d.TensorDataset(x), d.TensorDataset(-x)]), batch_size=5),
        lambda d, x: d.DataLoader(d.TensorDataset(x) + d.TensorDataset(-x), sampler=[11, 3, 8], batch_size=2),
        lambda d, x: d.DataLoader(x, batch_sampler=[[0, 1], [5]]),
        lambda d, x: d.DataLoader(x, batch_sampler=d.BatchSampler(d.SequentialSampler(x), 4, True)),
        lambda d, x: d.DataLoader(x, collate_fn=lambda rows: len(rows), batch_size=4),
    ],
)
def test_orders_that_are_not_random_are_pytorchs(make):
    torch = pytest.importorskip("torch")
    loaders = [make(t.utils.data, t.arange(6)) for t in (mg, torch)]
    assert [plain(batch) for batch in loaders[0]] == [plain(batch) for batch in loaders[1]]
    assert len(loaders[0]) == len(loaders[1])


def test_shuffling_visits_every_example_once_in_an_order_of_its_own():
    x = mg.arange(100)
    orders = [[i for batch in DataLoader(x, 7, shuffle=True) for i in batch.tolist()] for _ in range(2)]
    assert all(sorted(order) == x.tolist() and order != x.tolist() for order in orders) and orders[0] != orders[1]
    same = [[b.tolist() for b in DataLoader(x, 7, shuffle=True, generator=mg.Generator(3))] for _ in range(2)]
    assert same[0] == same[1]
    loader = DataLoader(x, 7, shuffle=True, num_workers=2, pin_memory=True, generator=mg.Generator(3))
    assert [b.tolist() for b in loader] == same[0] != [b.tolist() for b in loader]  # the next epoch has a new order


def test_random_samplers():
    many = iter(RandomSampler(range(4), replacement=True, num_samples=10**10))
    assert {next(many) for _ in range(200)} == {0, 1, 2, 3}
    twice = list(RandomSampler(range(4), num_samples=8))
    assert sorted(twice[:4]) == sorted(twice[4:]) == [0, 1, 2, 3]
    assert sorted(SubsetRandomSampler([7, 8, 9])) == [7, 8, 9]
    draws = list(WeightedRandomSampler([0, 1, 3], 4000, generator=mg.Generator(0)))
    assert draws.count(0) == 0 and abs(draws.count(2) / 4000 - 0.75) < 0.03
    assert sorted(WeightedRandomSampler([1, 1, 2], 3, replacement=False)) == [0, 1, 2]


def test_random_split():
    parts = random_split(range(11), [0.5, 0.3, 0.2], mg.Generator(0))
    assert [len(part) for part in parts] == [6, 3, 2]
    assert sorted(i for part in parts for i in part) == list(range(11))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(5))


class Squares(Dataset):
    """Gives the examples of a batch at once."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return index * index

    def __getitems__(self, indices):
        return [index * index + 100 for index in indices]


def test_a_data_set_gives_a_whole_batch():
    assert [batch.tolist() for batch in DataLoader(Squares(), batch_size=2)] == [[100, 101], [104, 109], [116]]
    assert list(DataLoader(Squares(), batch_size=None)) == [0, 1, 4, 9, 16]
    assert next(iter(DataLoader(Subset(Squares(), [3, 4]), batch_size=2))).tolist() == [109, 116]
    assert next(iter(DataLoader(Subset(TensorDataset(mg.arange(5)), [3, 4]), batch_size=2)))[0].tolist() == [3, 4]


def test_a_stream():
    assert [batch.tolist() for batch in DataLoader(Stream(), batch_size=2)] == [[0, 1], [2, 3], [4]]
    assert list(DataLoader(Stream(), batch_size=None)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "act, error, words",
    [
        (lambda: DataLoader(range(3), sampler=[0], shuffle=True), ValueError, "sampler or shuffle, got both"),
        (lambda: DataLoader(range(3), 2, batch_sampler=[[0]]), ValueError, "batch_sampler replaces batch_size"),
        (lambda: DataLoader(range(3), 0), ValueError, "batch_size of at least 1, got 0"),
        (lambda: DataLoader(Stream(), shuffle=True), ValueError, "IterableDataset has its own order"),
        (lambda: DataLoader(range(3), num_workers=1, worker_init_fn=print), NotImplementedError, "worker_init_fn"),
        (lambda: default_collate([mg.ones(2), mg.ones(3)]), RuntimeError, r"one shape, got \(2,\) and \(3,\); pad"),
        (lambda: default_collate([[1], [1, 2]]), RuntimeError, "one length"),
        (lambda: default_collate([object()]), TypeError, "got object; pass a collate_fn"),
        (lambda: default_collate([]), ValueError, "at least one example, got none"),
        (lambda: default_collate([mg.tensor(3), 4]), TypeError, "examples of one kind, got Tensor and int; pass a collate_fn"),
        (lambda: default_collate([1, "a"]), TypeError, "examples of one kind, got int and str"),
        (lambda: default_collate([1.5, None]), TypeError, "examples of one kind, got float and NoneType"),
        (lambda: default_collate([(1, 2), 3]), TypeError, "examples of one kind, got tuple and int"),
        (lambda: default_collate([{"a": 1}, {"b": 1}]), KeyError, "expected 'a' in every example"),
        (lambda: unchecked.utils.data.DataLoader(i for i in range(5)), TypeError, "with __getitem__, .* got generator"),
        (lambda: len(DataLoader(Stream())), TypeError, "a data set or sampler with a length, but object of type 'Stream'"),
        (lambda: TensorDataset(mg.tensor(3)), TypeError, r"tensors of at least one axis, got shape \(\)"),
        (lambda: ConcatDataset([range(3)])[0:2], TypeError, "an integer index, got slice"),  # type: ignore
        (lambda: TensorDataset(mg.ones(2), mg.ones(3)), ValueError, "equal first size, got 2, 3"),
        (lambda: ConcatDataset([]), ValueError, "got none"),
        (lambda: ConcatDataset([range(3)])[3], IndexError, "index 3 is out of range for 3 examples"),  # type: ignore
        (lambda: random_split(range(3), [1, 1]), ValueError, "add up to 3"),
        (lambda: RandomSampler(range(3), num_samples=0), ValueError, "num_samples of at least 1"),
        (lambda: WeightedRandomSampler([-1, 2], 1), ValueError, "weights of at least 0"),
        (lambda: WeightedRandomSampler([0, 2], 2, replacement=False), ValueError, "cannot draw 2 from 1"),
        (lambda: BatchSampler([1], 2, unchecked.inf), ValueError, "True or False as drop_last"),
        (lambda: Dataset()[0], NotImplementedError, "Dataset: __getitem__"),
        (lambda: unchecked.utils.data.get_worker_info(), AttributeError, "no 'get_worker_info'"),
    ],
)
def test_what_loaders_refuse(act, error, words):
    with pytest.raises(error, match=words):
        act()


# ── files ──


def test_a_checkpoint_of_model_and_optimizer_is_carried_over(tmp_path):
    def train(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(mg.ones(1, 3)).square().sum().backward()
            optimizer.step()

    straight, model = nn.Linear(3, 2, generator=mg.Generator(0)), nn.Linear(3, 2, generator=mg.Generator(0))
    train(straight, mg.optim.AdamW(straight.parameters(), lr=0.1), 5)
    optimizer = mg.optim.AdamW(model.parameters(), lr=0.1)
    train(model, optimizer, 3)
    path = tmp_path / "checkpoint.pth"
    mg.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 3}, path)

    checkpoint = mg.load(path, map_location="cpu", weights_only=True)
    resumed = nn.Linear(3, 2)
    resumed.load_state_dict(checkpoint["model"])
    optimizer = mg.optim.AdamW(resumed.parameters())
    optimizer.load_state_dict(checkpoint["optimizer"])
    train(resumed, optimizer, 5 - checkpoint["step"])
    np.testing.assert_array_equal(resumed.weight.array, straight.weight.array)


VALUES = {
    "a tensor": mg.arange(6).reshape(2, 3),
    "a state": {"b": mg.ones(2), "a": mg.tensor([True])},
    "nothing": {},
    "empty tensors": {"a": mg.zeros(0, 100_000), "b": mg.zeros(2, 0)},
    "no tensors": {"epoch": 3, "best": math.inf, "name": "β", "done": False, "none": None},
    "nested": {"a": [mg.ones(1), (2, {"x": mg.zeros(2, 0)})], 7: {"b": mg.tensor(3.0)}},
    "names that collide": {"a.b": mg.ones(1), "a": {"b": mg.zeros(1)}},
    "a dict that looks like our own": {"tensor": "tensor", "list": [{"dict": []}]},
}


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_as_they_were(tmp_path, name):
    mg.save(VALUES[name], tmp_path / "file")
    loaded = mg.load(tmp_path / "file")
    assert plain(loaded) == plain(VALUES[name])
    assert list(loaded) == list(VALUES[name]) if isinstance(loaded, dict) else True


def test_other_libraries_read_a_state_dict_and_their_files_are_read(tmp_path):
    arrays = {"wte.weight": np.ones((2, 3), np.float32), "bias": np.arange(3)}
    mg.save({name: mg.from_numpy(array) for name, array in arrays.items()}, tmp_path / "ours.safetensors")
    assert plain(serialization.load(tmp_path / "ours.safetensors")[0]) == plain(arrays)
    serialization.save(tmp_path / "theirs.safetensors", arrays, {"format": "pt"})
    assert plain(mg.load(tmp_path / "theirs.safetensors")) == plain(arrays)


def test_pickles_are_refused(tmp_path):
    path = tmp_path / "model.pth"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"a": 1}, protocol))
        with pytest.raises(serialization.CheckpointError, match="got a pickle .*convert it with safetensors"):
            mg.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(serialization.CheckpointError, match="got a pickle"):
        mg.load(path)


def test_a_damaged_description_is_refused(tmp_path):
    deep: Any = 0
    for _ in range(150):
        deep = {"list": [deep]}
    structures = [
        {"tensor": "b"},
        {"what": 1},
        {},
        {"dict": [1]},
        {"list": 3},
        {"tuple": "ab"},
        {"dict": [[[], 1]]},
        {"float": []},
        deep,
    ]
    for text in ["", "{", "[" * 100_000, *map(json.dumps, structures)]:
        serialization.save(tmp_path / "x", {"a": np.ones(1)}, {"minigrad.structure": text})
        with pytest.raises(serialization.CheckpointError, match="description of the values in .* is damaged"):
            mg.load(tmp_path / "x")


@pytest.mark.parametrize(
    "act, error, words",
    [
        (lambda path: mg.save(nn.Linear(1, 1), path), TypeError, "got Linear at the top; save module.state_dict"),
        (lambda path: mg.save({"a": {"b": {1, 2}}}, path), TypeError, "got set at a.b"),
        (lambda path: mg.save({(1, 2): 3}, path), TypeError, r"as keys, got \(1, 2\)"),
        (lambda path: unchecked.save({}, open(path, "wb")), TypeError, "expected a path, got BufferedWriter"),
        (lambda path: unchecked.load(3), TypeError, "expected a path, got int"),
        (lambda path: unchecked.load(path, map_location=print), NotImplementedError, "a device as map_location"),
        (lambda path: mg.load(path), serialization.CheckpointError, "load: expected a file, found none at .*; check the path"),
        (lambda path: mg.save({"__metadata__": mg.ones(1)}, path), serialization.CheckpointError, "other than '__metadata__'"),
        (lambda path: mg.save(mg.ones(*[1] * 9), path), serialization.CheckpointError, "at most 8 axes, got 9 in tensor"),
    ],
)
def test_what_files_refuse(tmp_path, act, error, words):
    with pytest.raises(error, match=words):
        act(tmp_path / "absent")


# ── names that listings look up ──


def test_the_gpus_names():
    assert mg.cuda.device_count() == int(mg.cuda.is_available())
    mg.manual_seed(1)
    before = mg.rand(2).tolist()
    mg.manual_seed(1)
    mg.cuda.manual_seed(5)
    mg.cuda.manual_seed_all(5)
    assert mg.rand(2).tolist() == before, "the GPU's seed leaves the generator alone"
    mg.cuda.empty_cache()
    if mg.cuda.is_available():
        mg.cuda.synchronize()
        assert mg.cuda.get_device_name() and mg.cuda.get_device_capability() > (3, 0) and mg.cuda.current_device() == 0
        assert mg.cuda.memory_reserved() >= mg.cuda.memory_allocated() >= 0
    else:
        assert mg.cuda.memory_allocated() == mg.cuda.memory_reserved() == 0 and not mg.cuda.is_bf16_supported()
        for call in (mg.cuda.synchronize, mg.cuda.get_device_name, mg.cuda.get_device_capability, mg.cuda.current_device):
            with pytest.raises(mg.DeviceError, match="device 'cuda'"):
                call()
    with pytest.raises(ValueError, match="expected GPU number 0, got 1"):
        mg.cuda.set_device(1)
    with pytest.raises(ValueError, match="seed"):
        mg.cuda.manual_seed(-1)
    with pytest.raises(AttributeError, match="no 'Stream'"):
        _ = unchecked.cuda.Stream


def test_backends():
    assert not mg.backends.mps.is_available() and not mg.backends.cudnn.is_available()
    mg.backends.cudnn.benchmark = True
    assert not mg.backends.cuda.matmul.allow_tf32
    mg.backends.cuda.matmul.allow_tf32 = True
    assert mg.get_float32_matmul_precision() == "high"
    mg.backends.cuda.matmul.allow_tf32 = False
    assert mg.get_float32_matmul_precision() == "highest"
    with pytest.raises(AttributeError):
        mg.backends.cuda.matmul.allow_bf16 = True  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["backends.mkl", "utils.checkpoint", "nn.utils.parameters_to_vector"])
def test_missing_names_say_so(name):
    module, _, attribute = name.rpartition(".")
    with pytest.raises(AttributeError, match=f"minigrad.{module} has no '{attribute}'; it has"):
        getattr(operator.attrgetter(module)(mg), attribute)


def test_compile_returns_what_it_is_given_and_says_so():
    layer = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match="minigrad has no compiler"):
        assert mg.compile(layer) is layer

    with pytest.warns(UserWarning, match="minigrad has no compiler"):

        @mg.compile(mode="reduce-overhead", fullgraph=True)
        def double(x):
            return 2 * x

    assert double(3) == 6
    with pytest.raises(TypeError, match="got fast"):
        mg.compile(layer, fast=True)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("default")
        for _ in range(3):
            mg.compile(layer)
    assert len(record) == 1


def test_the_version_is_the_packages():
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    assert config["metadata"]["version"] in (mg.__version__, "attr: minigrad.__version__")
