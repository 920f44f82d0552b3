"""The register tile's machine code for Arm, AVX2 and AVX-512. LLVM writes it on any machine, so none of these need be at hand.

The code is that of a generic processor of each kind; a real one may get its instructions in another order.

The loop over k must hold all its sums in registers: a load and a store of a spilled sum for each multiply-add would cost more
than the multiply-add.
"""

import json
import os
import platform
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import pytest
from numba import njit, types


class Target(NamedTuple):
    """A kind of processor: its vector width in floats, its machine as Python names it, and LLVM's description."""

    width: int
    machine: str
    features: str
    multiply_add: str  # a regular expression for its multiply-add of whole vectors
    stack: str  # and for an access to the stack

    @property
    def triple(self) -> str:
        return f"{self.machine}-unknown-linux-gnu"


X86_STACK = r"%[xyz]mm.*\(%rsp|\(%rsp.*%[xyz]mm"
TARGETS = {
    "NEON": Target(4, "aarch64", "+neon", r"fmla\s+v\d+\.4s", r"\b(ldr|str|ldp|stp)\s+q.*\[sp"),
    "AVX2": Target(8, "x86_64", "+avx2,+fma", r"vfmadd\w+ps\s.*%ymm", X86_STACK),
    "AVX-512": Target(16, "x86_64", "+avx512f,+avx512vl,+fma", r"vfmadd\w+ps\s.*%zmm", X86_STACK),
}
TOO_LARGE = 16, 3  # rows and vectors of a tile whose sums exceed the registers of every target


def machine_code(name: str) -> dict[str, Any]:
    """Compile the tiles of kernels/tile.py in this process.

    Returns:
        {"shape": rows and vectors of a tile, and the assembly text of "packed", "in place", "packing" and "too large"}
    """
    target = TARGETS[name]
    platform.machine = lambda: target.machine
    from kernels import tile

    I, shape = types.int64, (tile.ROWS, tile.VECTORS)
    packed, in_place, packing = tile.register_tile(*shape), tile.tile_in_place(*shape, tile.COLUMNS), tile.packing_tile(*shape)
    too_large = tile.register_tile(*TOO_LARGE)
    functions: dict[str, Any] = {
        "packed": lambda a, b, c, K, row, add, bias: packed(a, b, c, K, row, add, bias),
        "in place": lambda a, b, c, K, row, add, bias, x, y: in_place(a, b, c, K, row, add, bias, x, y),
        "packing": lambda a, b, c, K, row, add, bias, x, y: packing(a, b, c, K, row, add, bias, x, y),
        "too large": lambda a, b, c, K, row, add, bias: too_large(a, b, c, K, row, add, bias),
    }
    texts = {}
    for kind, python_function in functions.items():
        function = njit(python_function)
        function.compile((I, I, I, I, I, types.boolean, I, *([I, I] if kind in ("in place", "packing") else [])))
        (text,) = function.inspect_llvm().values()
        texts[kind] = lowered(text, target)
    return {"shape": shape, **texts}


def lowered(text: str, target: Target) -> str:
    """Assembly for a generic processor of the target's kind, from LLVM's code that was optimised for this machine."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target_machine = llvm.Target.from_triple(target.triple).create_target_machine(features=target.features, opt=3)
    text = re.sub(r'target triple = ".*"', f'target triple = "{target.triple}"', text)
    text = re.sub(r'target datalayout = ".*"', f'target datalayout = "{target_machine.target_data}"', text)
    return target_machine.emit_assembly(llvm.parse_assembly(text))


@lru_cache
def machine_code_elsewhere(name: str) -> dict[str, Any]:
    """`machine_code` in a process of its own, because the kernels take the vector width at import.

    There Numba compiles for a generic processor, so the result does not depend on the machine that runs the test.
    """
    code = f"import json; from {__name__} import machine_code; print(json.dumps(machine_code({name!r})))"
    settings, root = {"MINIGRAD_VECTOR_WIDTH": str(TARGETS[name].width)}, Path(__file__).parents[2]
    settings |= {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    run = subprocess.run([sys.executable, "-c", code], env=os.environ | settings, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def inner_loop(text: str, multiply_add: str) -> list[str]:
    """The lines of the loop with the most multiply-adds: from a label to the branch back to it, with no label between them."""
    loops, label, body = [list[str]()], "", list[str]()
    for line in text.splitlines():
        if match := re.match(r"(\.\w+):", line):
            label, body = match[1], []
            continue
        body.append(line)
        if label and re.search(rf"\s{re.escape(label)}\b", line):
            loops.append(body[:])
    return max(loops, key=lambda lines: count(multiply_add, lines))


def count(pattern: str, lines: list[str]) -> int:
    return sum(bool(re.search(pattern, line)) for line in lines)


@pytest.mark.parametrize("kind", ["packed", "in place", "packing"])
@pytest.mark.parametrize("name", TARGETS)
def test_the_sums_of_a_tile_stay_in_registers(name, kind):
    target, result = TARGETS[name], machine_code_elsewhere(name)
    rows, vectors = result["shape"]
    loop = inner_loop(result[kind], target.multiply_add)
    steps, rest = divmod(count(target.multiply_add, loop), rows * vectors)
    assert steps >= 1 and rest == 0  # LLVM repeats the step over k once or more
    assert count(target.stack, loop) == 0, "\n".join(loop)
    if (name, kind) == ("NEON", "packed"):  # most multiply-adds take their factor from a lane: no instruction broadcasts it
        assert count(r"fmla\s+v\d+\.4s, v\d+\.4s, v\d+\.s\[\d\]", loop) > steps * rows * vectors // 2


@pytest.mark.parametrize("name", TARGETS)
def test_the_sums_of_a_tile_that_is_too_large_show_on_the_stack(name):
    loop = inner_loop(machine_code_elsewhere(name)["too large"], TARGETS[name].multiply_add)
    assert count(TARGETS[name].stack, loop) > 0
