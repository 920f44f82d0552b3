"""The engine on the CUDA kernels, emulated or behind a stand-in for CuPy, gives the CPU's numbers."""

import gc
import hashlib
import json
import subprocess
import sys
import weakref
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kernels
import minigrad as mg
import minigrad.nn.functional as F
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_train import TrainConfig, as_floats, make_optimizer
from kernels import arrays, check, emulator, gpu
from kernels.emulator import memory
from kernels.graph import Graph, capturing

pytestmark = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")


def losses_of_training(device, steps=20):
    config = GPTConfig(vocab_size=61, context=24, n_layer=2, n_head=2, d_model=32, dropout=0.1)
    mg.manual_seed(0)
    model, rng = GPT(config, mg.Generator(0)).to(device), np.random.default_rng(1)
    optimizer = mg.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        ids = rng.integers(0, 61, (4, 25))
        inputs, targets = (mg.as_tensor(np.ascontiguousarray(a), device=device) for a in (ids[:, :-1], ids[:, 1:]))
        loss = F.cross_entropy(model(inputs).view(-1, 61), targets.view(-1))
        optimizer.zero_grad()
        loss.backward()
        mg.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def test_twenty_training_steps_give_the_cpus_losses():
    on_cpu, emulated = losses_of_training("cpu"), losses_of_training("emulator")
    assert on_cpu[-1] < on_cpu[0]
    assert np.abs(on_cpu - emulated).max() < 1e-3


@pytest.mark.parametrize("layers", [1, 3])
def test_the_number_of_launches_in_a_training_step(layers):
    """A launch costs the CPU microseconds, whatever it computes. A step has 27 of our kernels for each block, and 17 more."""
    with mg.device("emulator"):
        config = GPTConfig(vocab_size=61, context=16, n_layer=layers, n_head=2, d_model=32)
        model = GPT(config, mg.Generator(0))
        optimizer = make_optimizer(model, TrainConfig())
        ids = np.random.default_rng(0).integers(0, 61, (2, 17))
        inputs, targets = mg.as_tensor(ids[:, :-1].copy()), mg.as_tensor(ids[:, 1:].copy())
        for _ in range(2):  # the first step also allocates the moments
            with memory.counting() as traffic:
                loss = F.cross_entropy(model(inputs).view(-1, 61), targets.view(-1))
                loss.backward()
                norm = mg.optim.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                as_floats(loss, norm)
    assert sum(traffic.launches.values()) <= 17 + 27 * layers
    assert sum(traffic.elementwise.values()) <= 19 + 2 * layers  # the two additions to the residual stream
    assert traffic.launches["adamw"] == 2 and traffic.launches["square_sums"] == 1


def graphed_steps(device, graph, steps=20):
    """Losses of training on batches of two shapes, and the number of launches in each step."""
    config = GPTConfig(vocab_size=61, context=24, n_layer=1, n_head=2, d_model=32)
    model, rng = GPT(config, mg.Generator(0)).to(device), np.random.default_rng(1)
    optimizer, losses, launches = mg.optim.AdamW(model.parameters(), lr=1e-2), [], []

    def loss_fn(inputs, targets):
        return F.cross_entropy(model(inputs).view(-1, 61), targets.view(-1))

    step = mg.graphed(loss_fn, model.parameters())
    for i in range(steps):
        ids = rng.integers(0, 61, (4, 25 if i % 3 else 17))
        batch = [mg.as_tensor(np.ascontiguousarray(a), device=device) for a in (ids[:, :-1], ids[:, 1:])]
        with memory.counting() as traffic:
            if graph:
                loss = step(*batch)
            else:
                loss = loss_fn(*batch)
                loss.backward()
            mg.optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        launches.append(sum(traffic.launches.values()) + sum(traffic.elementwise.values()))
        assert not traffic.to_host
        losses.append(loss.item())
    return losses, launches


def test_a_recorded_step_gives_the_same_numbers_in_one_launch():
    eager_losses, eager_launches = graphed_steps("emulator", False)
    graph_losses, graph_launches = graphed_steps("emulator", True)
    assert eager_losses == graph_losses  # to the bit
    assert graphed_steps("cpu", True, 5)[0] == graphed_steps("cpu", False, 5)[0]  # on the CPU nothing is recorded
    assert eager_launches[-1] > 50 and set(graph_launches[6:]) == {12}  # the graph, two inputs, clipping and AdamW


def test_gradients_of_repeated_rows_add_up_in_a_fixed_order():
    """CuPy's add.at uses atomics, in any order; on a device, the kernel `embedding_backward` replaces it."""
    grads = {}
    places = np.array([2, 0, 2, 2, -1]), np.array([1, 1, 1, 0, 3])
    for device in ("cpu", "emulator"):
        x = mg.tensor(np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32), device=device)
        x.requires_grad_()
        with memory.counting() as traffic:
            for index in (places[0], places):
                y = x[index]
                (y * y * y).sum().backward()
        grads[device] = x.grad.numpy(force=True)
    assert traffic.launches["embedding_backward"] == 2 and "add.at" not in traffic.elementwise
    np.testing.assert_allclose(grads["emulator"], grads["cpu"], rtol=1e-6)


# ── a stand-in for CuPy: the part that gpu.py and graph.py use, on top of the emulator ──


class OutOfMemoryError(MemoryError):
    pass


class Memory:
    def __init__(self, size):
        self.ptr, self.size, self.device_id = 1, size, 0


class UnownedMemory:
    def __init__(self, ptr, size, owner, device_id):
        self.owner = owner


class MemoryPool:
    """Hands out memory that does not keep the pool alive."""

    def __init__(self, allocate):
        self.allocate = allocate

    def malloc(self, size):
        self.allocate(size)
        return SimpleNamespace(mem=Memory(size))

    def free_all_blocks(self):
        pass


class Stream:
    """While it is the current stream, records the launches between begin_capture and end_capture."""

    def __init__(self, non_blocking):
        assert non_blocking  # the legacy stream cannot be recorded

    def __enter__(self):
        self.recording: Any = memory.recording()

    def __exit__(self, *_):
        assert self.recording is None  # end_capture was called

    def begin_capture(self):
        self.work = self.recording.__enter__()

    def end_capture(self):
        self.recording.__exit__(None, None, None)
        self.recording = None
        return SimpleNamespace(launch=lambda: [work() for work in self.work])


class StandIn(ModuleType):
    """A module named cupy, in which an array may have at most `room` bytes."""

    room = 1 << 30

    def __init__(self, folder):
        super().__init__("cupy")
        self.folder, self.compiled, self.freed = folder, [], False
        runtime = SimpleNamespace(
            getDeviceCount=lambda: 1,
            CUDARuntimeError=RuntimeError,
            memGetInfo=lambda: (2**20, 2**22),
            getDeviceProperties=lambda id: {"name": b"a stand-in"},
        )
        attributes = {"MultiProcessorCount": 4, "MaxSharedMemoryPerBlockOptin": 227 << 10}
        device = SimpleNamespace(id=0, compute_capability="90", attributes=attributes)
        self.cuda = SimpleNamespace(
            runtime=runtime,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            Device=lambda: device,
            Stream=Stream,
            Memory=Memory,
            MemoryPool=MemoryPool,
            UnownedMemory=UnownedMemory,
            MemoryPointer=lambda mem, offset: SimpleNamespace(mem=mem),
            using_allocator=self.using_allocator,
        )

    def __getattr__(self, name):
        return getattr(memory, name)

    def using_allocator(self, malloc):
        assert self.freed  # the default pool gave its free blocks back before
        self.malloc = malloc
        return nullcontext()

    def get_default_memory_pool(self):
        self.freed = True
        return MemoryPool(Memory)

    def empty(self, shape, dtype):
        if np.prod(shape) * np.dtype(dtype).itemsize > self.room:
            raise OutOfMemoryError
        return memory.empty(shape, dtype)

    def RawModule(self, code, options):
        assert "--std=c++17" in options
        defines = dict(option[2:].split("=") for option in options if option.startswith("-D"))
        path = self.folder / hashlib.sha256(code.encode()).hexdigest()[:8] / "cuda.cu"
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
        self.compiled.append(path)
        emulated = emulator.Emulated(path, defines)

        class Function:
            max_dynamic_shared_size_bytes = 48 << 10

            def __init__(self, name):
                self.name = name

            def __call__(self, grid, block, args, shared_mem=0):
                assert all(isinstance(n, int) for n in (*grid, *block))
                assert shared_mem <= self.max_dynamic_shared_size_bytes
                arguments = [None if a is gpu._NULL else getattr(a, "storage", a) for a in args]
                memory.do(lambda: emulated.launch(self.name, grid, block, arguments, shared_mem))

        return SimpleNamespace(get_function=Function)


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    stand_in = StandIn(tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    gpu.source_with.cache_clear()
    modules: dict[Any, Any] = arrays._MODULE_OF_TYPE
    modules.pop(memory.ndarray, None)  # the stand-in's arrays are the emulated device's
    yield stand_in
    gpu.source_with.cache_clear()
    modules.pop(memory.ndarray, None)
    for name, module in sys.modules.items():  # drop what the stand-in compiled
        if name.startswith("kernels.") and hasattr(module, "SOURCE"):
            module.SOURCE._functions, module.SOURCE._module = {}, None


def test_training_through_cupys_own_interface(cupy):
    """Runs the code that needs CuPy: RawModule, options, null pointers, the device named "cuda"."""
    on_cpu, on_cuda = losses_of_training("cpu", 3), losses_of_training("cuda", 3)
    assert np.abs(on_cpu - on_cuda).max() < 1e-4
    assert len(set(cupy.compiled)) >= 7  # one for each operation of a GPT


def test_a_step_recorded_through_cupys_own_interface(cupy):
    assert graphed_steps("cuda", True, 8)[0] == graphed_steps("emulator", False, 8)[0]


def test_a_graphs_memory_lasts_as_long_as_the_graph_or_its_arrays(cupy, monkeypatch):
    blocks = []

    class Block(Memory):
        def __init__(self, size):
            super().__init__(size)
            blocks.append(weakref.ref(self))

    monkeypatch.setattr(cupy.cuda, "Memory", Block)
    graph = Graph(cupy)
    with graph.capture():
        loss = cupy.malloc(4)
    cupy.malloc = None
    del graph
    gc.collect()
    assert blocks[0]() is not None and loss.mem.owner
    del loss
    gc.collect()
    assert blocks[0]() is None


def test_an_error_of_cupy_while_recording_is_a_graph_error(cupy, monkeypatch):
    def refuse(self):
        if memory._recorded is not None:
            raise RuntimeError("the current stream is capturing, so D2H transfers are disallowed")
        return self.storage.item()

    def fail(self):
        if memory._recorded is not None:
            raise OutOfMemoryError
        return self.storage.item()

    for item, exception in ((refuse, mg.GraphError), (fail, OutOfMemoryError)):
        monkeypatch.setattr(memory.ndarray, "item", item)
        x, a = (mg.tensor(np.ones(3, np.float32), device="cuda", requires_grad=r) for r in (True, False))

        def loss_fn(a, x=x):
            (a * x).sum().backward()  # records a gradient before it fails
            return (a * x).sum() * (x.sum().item() + 1)

        step = mg.graphed(loss_fn, [x])
        step(a)
        x.grad = None
        with pytest.raises(exception):
            step(a)
        assert x.grad is None and not capturing()


def test_the_out_of_memory_message(cupy):
    cupy.room = 1000
    x = kernels.to_device(np.zeros((100, 100), np.float32), "cuda")
    with pytest.raises(gpu.DeviceMemoryError, match=r"\(100, 100\) \(0 MiB\): 1 of 4 MiB are free; lower the batch size"):
        kernels.serving(x).softmax_forward(x)


def test_gradcheck_through_the_cuda_kernels():
    command = [sys.executable, "-m", "minigrad.gradcheck", "--kernels", "emulator"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_check_for_gpu_machines_runs_on_the_emulator(tmp_path):
    command = [sys.executable, "-m", "chapters.bench", "gpu", "--device", "emulator", "--out", str(tmp_path), "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "0 failed" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "check.json").exists()


TOOL = """#!/bin/sh
echo "========= COMPUTE-SANITIZER"
echo "case softmax_forward"
case $2 in
    racecheck) echo "========= RACECHECK SUMMARY: 0 hazards displayed" ;;
    synccheck) sleep 1000 ;;
    initcheck) echo "========= Uninitialized __global__ memory read of size 4 bytes"; exit 9 ;;
    *) echo "========= ERROR SUMMARY: 0 errors" ;;
esac
"""


def test_a_sanitizer_that_hangs_is_stopped_and_all_four_are_reported(tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    monkeypatch.setattr(check, "SANITIZED_BY", 2)
    monkeypatch.setattr(check, "SHORTEST_TIME", 5)
    report = check.Report(tmp_path, "a stand-in")
    check.run_sanitizers(report, kernels.SETS["emulator"], np.asarray, tool)
    result = json.loads((tmp_path / "check.json").read_text())
    verdicts = result["sections"]["sanitize"]
    assert verdicts["memcheck"].startswith("clean, 1 cases") and verdicts["racecheck"].startswith("clean, 1 cases")
    assert verdicts["synccheck"].startswith("stopped, 1 cases")
    assert verdicts["initcheck"].startswith("1 lines of complaint, 1 cases")
    assert len(result["failed"]) == 1 and "Uninitialized" in result["failed"][0] and result["seconds"] < 900


def test_the_check_without_a_gpu_says_what_is_missing():
    done = subprocess.run([sys.executable, "-m", "kernels.check", "--device", "cuda"], capture_output=True, text=True)
    if done.returncode == 0:
        pytest.skip("there is a GPU here")
    assert done.stderr.startswith("error: device 'cuda' ") and "Traceback" not in done.stderr
