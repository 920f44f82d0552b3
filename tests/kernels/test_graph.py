"""Graphs on the emulated device: what can be recorded, what is refused, and when a step is recorded again."""

import numpy as np
import pytest

import kernels
import minigrad as mg
import minigrad.nn.functional as F
from kernels import emulator
from kernels.emulator import memory
from kernels.graph import Graph, capturing

pytestmark = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")


def on_device(values, requires_grad=False):
    return mg.tensor(np.array(values, np.float32), device="emulator", requires_grad=requires_grad)


def test_a_graph_refuses_work_that_it_cannot_repeat():
    a, x = on_device(np.ones((3, 4))), on_device(np.ones((3, 4)), requires_grad=True)
    reading = mg.graphed(lambda a: (a * x).sum() * (x.sum().item() + 1), [x])
    dropout = mg.graphed(lambda a: F.dropout(a * x, 0.5).sum(), [x])
    for step, message in ((reading, "item: a graph cannot record a transfer between CPU and GPU"), (dropout, "dropout")):
        step(a)
        x.grad = None
        with pytest.raises(mg.GraphError, match=message):
            step(a)
        assert x.grad is None and not capturing()
    with pytest.raises(TypeError, match="without inputs"):
        reading()


def test_the_emulated_device_records_only_work_that_makes_one_array():
    x = kernels.to_device(np.array([2, 1, 3], np.float32), "emulator")
    for work in (lambda: x.sort(), lambda: memory.split(x + 1, 3), lambda: memory.divmod(x, 2)):
        with pytest.raises(mg.GraphError, match="one array"), Graph(memory).capture():
            work()


def test_an_input_that_requires_a_gradient_gets_it_every_time():
    x = on_device([1, 1, 1], requires_grad=True)
    step = mg.graphed(lambda a: (a * a * x).sum(), [x])
    for n in (1.0, 2.0, 3.0):
        a = on_device([n] * 3, requires_grad=True)
        step(a)
        assert a.grad.tolist() == [2 * n] * 3
        x.grad = None


def test_new_parameter_arrays_are_recorded_again():
    a, x = on_device([1, 1, 1]), on_device([1, 1, 1], requires_grad=True)
    step, earlier_arrays = mg.graphed(lambda a: (a * x).sum(), [x]), []
    for n in range(1, 8):  # more than MOST_SHAPES
        earlier_arrays.append(x.array)
        x.array = x.array.__class__(np.full(3, n, np.float32))
        for call in range(3):
            with memory.counting() as traffic:
                loss = step(a)
            x.grad = None
            assert loss.item() == 3 * n and traffic.launches["graph"] == (call > 0)


def test_a_concatenation_is_recorded_piece_by_piece():
    x = on_device(np.ones((2, 3)), requires_grad=True)
    step = mg.graphed(lambda a: (mg.cat([a, x * 2, a * x], 1).split([5, 4], 1)[0] * a[:, :1]).sum(), [x])
    for n in (1.0, 2.0, 3.0):
        loss = step(on_device(np.full((2, 3), n)))
        assert loss.item() == 2 * (3 * n + 4) * n and x.grad.tolist() == [[2 * n, 2 * n, 0]] * 2
        x.grad = None


def test_existing_gradients_are_added_to():
    a, x = on_device([0, 1, 2, 3]), on_device([1, 1, 1, 1], requires_grad=True)
    step = mg.graphed(lambda a: (a * x).sum(), [x])
    for n in (1, 2, 3):
        step(a)
        assert x.grad.tolist() == [0, n, 2 * n, 3 * n]
