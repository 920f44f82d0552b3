"""The register tile's machine code for Arm, AVX2 and AVX-512. LLVM writes it on any machine, so none of these need be at hand.

The loop over k must hold all its sums in registers: a load and a store of a spilled sum for each multiply-add would cost more
than the multiply-add.
"""

import json
import os
import platform
import re
import subprocess
import sys
from functools import partial
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


X86_STACK = r"\(%r[sb]p"
TARGETS = {
    "NEON": Target(4, "aarch64", "+neon", r"fmla\s+v\d+\.4s", r"\[sp"),
    "AVX2": Target(8, "x86_64", "+avx2,+fma", r"vfmadd\w+ps\s.*%ymm", X86_STACK),
    "AVX-512": Target(16, "x86_64", "+avx512f,+avx512vl,+fma", r"vfmadd\w+ps\s.*%zmm", X86_STACK),
}


def machine_code(name: str, kind: str, shape: tuple[int, int] | None) -> dict:
    """{"shape": rows and vectors of a tile, "text": its machine code}, compiled in this process.  kind: see `compiled`."""
    target = TARGETS[name]
    platform.machine = lambda: target.machine
    from kernels import tile

    rows, vectors = shape or (tile.ROWS, tile.VECTORS)
    makers: dict[str, Any] = {
        "packed": tile.register_tile,
        "in place": partial(tile.tile_in_place, b_row=tile.COLUMNS),
        "packing": tile.packing_tile,
    }
    product, I = makers[kind](rows, vectors), types.int64
    functions: dict[int, Any] = {  # by the number of arguments that the tile takes beyond the packed tile's
        0: lambda a, b, c, K, row, add, bias: product(a, b, c, K, row, add, bias),
        2: lambda a, b, c, K, row, add, bias, x, y: product(a, b, c, K, row, add, bias, x, y),
    }
    more = 0 if kind == "packed" else 2
    function = njit(functions[more])
    function.compile((I, I, I, I, I, types.boolean, I, *[I] * more))
    (text,) = function.inspect_llvm().values()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    described = llvm.Target.from_triple(target.triple).create_target_machine(features=target.features, opt=3)
    text = re.sub(r'target triple = ".*"', f'target triple = "{target.triple}"', text)
    text = re.sub(r'target datalayout = ".*"', f'target datalayout = "{described.target_data}"', text)
    return {"shape": [rows, vectors], "text": described.emit_assembly(llvm.parse_assembly(text))}


def compiled(name: str, kind: str, shape: tuple[int, int] | None = None) -> dict:
    """`machine_code` in a process of its own, because the kernels take the vector width at import.

    kind: "packed", "in place" or "packing", the tiles of kernels/tile.py.  shape: rows and vectors; the kernels' own if None.
    """
    code = f"import json; from {__name__} import machine_code; print(json.dumps(machine_code({name!r}, {kind!r}, {shape!r})))"
    setting = {"MINIGRAD_VECTOR_WIDTH": str(TARGETS[name].width)}
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], env=os.environ | setting, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def inner_loop(text: str, multiply_add: str) -> list[str]:
    """The lines of the loop with the most multiply-adds: from a label to the branch back to it, with no label between them."""
    loops, label, body = [list[str]()], "", list[str]()
    for line in text.splitlines():
        if found := re.match(r"(\.\w+):", line):
            label, body = found[1], []
            continue
        body.append(line)
        if label and re.search(rf"\s{re.escape(label)}\b", line):
            loops.append(body[:])
    return max(loops, key=lambda lines: sum(bool(re.search(multiply_add, line)) for line in lines))


def count(pattern: str, lines: list[str]) -> int:
    return sum(bool(re.search(pattern, line)) for line in lines)


@pytest.mark.parametrize("kind", ["packed", "in place", "packing"])
@pytest.mark.parametrize("name", TARGETS)
def test_the_sums_of_a_tile_stay_in_registers(name, kind):
    target, result = TARGETS[name], compiled(name, kind)
    rows, vectors = result["shape"]
    loop = inner_loop(result["text"], target.multiply_add)
    steps, rest = divmod(count(target.multiply_add, loop), rows * vectors)
    assert steps >= 1 and rest == 0  # LLVM repeats the step over k once or more
    assert count(target.stack, loop) == 0, "\n".join(loop)
    if (name, kind) == ("NEON", "packed"):  # most multiply-adds take their factor from a lane: no instruction broadcasts it
        assert count(r"fmla\s+v\d+\.4s, v\d+\.4s, v\d+\.s\[\d\]", loop) >= rows * vectors // 2


def test_a_tile_that_is_too_large_shows_on_the_stack():
    target, result = TARGETS["AVX2"], compiled("AVX2", "packed", (8, 3))
    assert count(target.stack, inner_loop(result["text"], target.multiply_add)) > 0
