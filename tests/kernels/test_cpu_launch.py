"""Kernels are compiled once and cached, and every rung of a ladder gives the reference's result."""

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numba
import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features

from kernels import SETS, caches, cases, launch, simd
from kernels.bench import climb
from kernels.bench.__main__ import OPERATIONS
from kernels.launch import inner
from kernels.matmul.block import DEPTH, tallest
from kernels.matmul.cpu import matmul
from kernels.tile import COLUMNS, ROWS

ROOT = Path(__file__).parents[2]
GELU = "import numpy as np; from kernels.gelu.cpu import gelu_forward; print(gelu_forward(np.ones(3, np.float32)))"


def python(code, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)


def test_compiling_is_announced_once_and_cached(tmp_path):
    cold, warm = (python(GELU, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert cold.returncode == warm.returncode == 0, cold.stderr + warm.stderr
    assert cold.stderr.count("compiling the gelu kernel 'forward'") == 1
    assert warm.stderr == "" and warm.stdout == cold.stdout
    narrow = python(GELU, NUMBA_CACHE_DIR=str(tmp_path), MINIGRAD_VECTOR_WIDTH="4")
    assert "compiling" in narrow.stderr  # the cache of another width is not used


def test_a_kernel_has_the_same_bytes_compiled_here_or_loaded_from_disk(tmp_path):
    """Attention's forward pass is the longest chain of inner functions, which Numba translates several times."""
    code = """
import hashlib, numpy as np
from kernels.attention.cpu import attention_forward
q, k, v = np.random.default_rng(0).standard_normal((3, 2, 2, 40, 8), np.float32)
print(hashlib.sha256(b"".join(a.tobytes() for a in attention_forward(q, k, v, causal_offset=0))).hexdigest())
"""
    compiled, loaded = (python(code, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert "compiling" in compiled.stderr and loaded.stderr == ""
    assert compiled.stdout == loaded.stdout != ""


@pytest.mark.parametrize("fails", ["_CacheLocator.ensure_cache_path", "IndexDataCacheFile._open_for_write"])
def test_where_nothing_can_be_written_kernels_work_and_say_so_once(fails, tmp_path):
    """A read-only installation fails when Numba looks for a folder; a full disk fails when Numba saves."""
    broken = f"import numba.core.caching as c\ndef fails(*_): raise OSError(28, 'No space left on device')\nc.{fails} = fails\n"
    result = python(broken + GELU, NUMBA_CACHE_DIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "0.84" in result.stdout
    assert result.stderr.count("cannot be cached on disk") == 1


def test_an_impossible_width_is_refused():
    result = python("import kernels.simd", MINIGRAD_VECTOR_WIDTH="7")
    assert "must be 4, 8 or 16" in result.stderr


@pytest.mark.parametrize("width", [str(width) for width in (4, 8) if width < simd.WIDTH])
def test_narrower_vectors_compute_the_same(width, tmp_path):
    code = """
import numpy as np
from kernels.matmul import cpu, reference
from kernels.attention import cpu as fast, reference as slow
rng = np.random.default_rng(0)
for M, K, N in ((1, 5, 7), (33, 70, 50), (100, 600, 130), (101, 77, 400)):
    a, b = rng.standard_normal((M, K), np.float32), rng.standard_normal((N, K), np.float32)
    assert np.abs(cpu.matmul(a, b, transpose_b=True) - reference.matmul(a, b, transpose_b=True)).max() < 1e-3
    turned = cpu.matmul(np.ascontiguousarray(a.T), b, transpose_a=True, transpose_b=True)
    assert np.abs(turned - reference.matmul(a, b, transpose_b=True)).max() < 1e-3
q, k, v, d = rng.standard_normal((4, 2, 3, 50, 20), np.float32)
y, lse = fast.attention_forward(q, k, v, causal_offset=0)
assert np.abs(y - slow.attention_forward(q, k, v, causal_offset=0)[0]).max() < 1e-5
for g, w in zip(fast.attention_backward(d, q, k, v, y, lse, causal_offset=0),
                slow.attention_backward(d, q, k, v, y, lse, causal_offset=0)):
    assert np.abs(g - w).max() < 1e-4
"""
    result = python(code, MINIGRAD_VECTOR_WIDTH=width, NUMBA_CACHE_DIR=str(tmp_path))
    assert result.returncode == 0, result.stderr


def test_blocks_fit_the_second_level_cache(tmp_path):
    """A smaller cache, of another processor, gives lower blocks and kernels of their own in the disk cache."""
    panel = 4 * DEPTH * COLUMNS  # bytes
    for size in (256 << 10, 512 << 10, 1 << 20):
        assert 24 <= tallest(size) <= 96 and tallest(size) % ROWS == 0
        assert tallest(size) == 24 or 4 * DEPTH * tallest(size) + panel <= size // 2
    assert tallest(1) == 24 and tallest(1 << 30) == 96
    code = """
import numpy as np
from kernels.matmul import block, cpu, reference
a, b = np.random.default_rng(0).standard_normal((2, 130, 600), np.float32)
assert np.abs(cpu.matmul(a, b, transpose_b=True) - reference.matmul(a, b, transpose_b=True)).max() < 1e-3
print(block.TALLEST)
"""
    first, *others = (
        python(code, NUMBA_CACHE_DIR=str(tmp_path), MINIGRAD_L2_CACHE=size) for size in ("128K", "4M", "131072", str(4 << 20))
    )
    assert [result.stdout for result in (first, *others)] == ["24\n", "96\n"] * 2, first.stderr
    assert ["compiling" in result.stderr for result in (first, *others)] == [True, True, False, False]


def test_the_size_of_the_cache(tmp_path, monkeypatch):
    for index, (level, size) in enumerate([("1", "32K"), ("2", "1280K"), ("3", "8192K")]):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        (folder / "level").write_text(level + "\n")
        (folder / "size").write_text(size + "\n")
    assert caches._linux(tmp_path) == 1280 << 10
    (tmp_path / "index1" / "size").write_text("unknown\n")
    assert caches._linux(tmp_path) == caches._linux(tmp_path / "nothing") == 0
    monkeypatch.setattr(caches, "_SYSTEM", tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("MINIGRAD_L2_CACHE", raising=False)
    assert caches.second_level_cache.__wrapped__() == caches.DEFAULT
    monkeypatch.setenv("MINIGRAD_L2_CACHE", "2M")
    assert caches.second_level_cache.__wrapped__() == 2 << 20
    for wrong in ("-1", "much", "0", "2G"):
        monkeypatch.setenv("MINIGRAD_L2_CACHE", wrong)
        with pytest.raises(ValueError, match=f"MINIGRAD_L2_CACHE: expected a size such as 512K or 2M, got '{wrong}'"):
            caches.second_level_cache.__wrapped__()


@inner
def _exp(x, y):
    for i in range(len(x)):
        y[i] = simd.exp(x[i])


@inner
def _exp_to_zero(x, y):
    for i in range(len(x)):
        y[i] = simd.exp_to_zero(x[i])


@inner
def _exp2(x, y):
    for i in range(len(x)):
        y[i] = simd.exp2(x[i])


@pytest.mark.parametrize(
    "function, specification, lowest, highest",
    [(_exp, np.exp, -87, 88.7), (_exp_to_zero, np.exp, -87, 1e-3), (_exp2, np.exp2, -126, 127.49)],
)
def test_exp(function, specification, lowest, highest):
    x = np.concatenate([np.linspace(lowest, highest, 400_001), np.linspace(-1e-3, 1e-3, 10_001)]).astype(np.float32)
    y = np.empty_like(x)
    function(x, y)
    exact = specification(x.astype(np.float64))
    assert (np.abs(y - exact) / exact).max() < 2e-7


def test_exp_of_special_numbers():
    x = np.array([np.nan, np.inf, -np.inf, 0, 88.8, 200, 3e38, -104, -3e38, -100, -90], np.float32)
    y = np.empty_like(x)
    _exp(x, y)
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_allclose(y, np.exp(x), rtol=2e-7, atol=1.5e-45)  # one step of the denormal numbers
    x = np.array([np.nan, -np.inf, 0, -88, -104, -200, -3e38], np.float32)
    y = np.empty_like(x)
    _exp_to_zero(x, y)
    np.testing.assert_array_equal(y, [np.nan, 0, 1, 0, 0, 0, 0])
    x = np.array([np.nan, -np.inf, 0, -126.6, -3e38, 127.6, 3e38, np.inf], np.float32)
    y = np.empty_like(x)
    _exp2(x, y)
    np.testing.assert_array_equal(y, [np.nan, 0, 1, 0, 0, np.inf, np.inf, np.inf])


def test_the_number_of_threads_is_numbas_before_and_after_they_start():
    code = """
import numba
from kernels import launch
first = launch.get_num_threads()
launch.set_num_threads(1)
print(first, launch.get_num_threads(), numba.get_num_threads())
"""
    assert python(code, NUMBA_NUM_THREADS="3").stdout.split() == ["3", "1", "1"]


def test_threads_may_call_kernels_at_the_same_time():
    a = np.random.default_rng(0).standard_normal((200, 200)).astype(np.float32)
    alone = matmul(a, a).tobytes()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: matmul(a, a).tobytes(), range(40))) == {alone}


SIZES = {"adamw": 10, "cross_entropy": 8, "dropout": 10, "matmul": 96}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_rung_of_a_ladder_computes_the_same(operation):
    for ladder in import_module(f"kernels.{operation}.ladder").ladders(SIZES.get(operation, 64)):
        climb.check(ladder)


@pytest.mark.parametrize("name, size", [("softmax", "64"), ("layernorm", "64"), ("cross_entropy", "8")])
def test_ladders_run_and_check_themselves(name, size):
    code = f"import sys; sys.argv = ['bench', {name!r}, '--size', {size!r}]\n"
    code += "from kernels.bench import contest\n"
    code += "contest.in_turns.__defaults__ = (0.0,)\n"
    code += "from kernels.bench.__main__ import main; main()"
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert "threads" in result.stdout and "of the limit" in result.stdout


def test_benchmarks_ask_for_tasks_that_another_process_finds_by_name():
    from chapters.bench import decode
    from kernels.bench import limits, tables, tasks

    assert {line.task[0] for line in tables.memory_traffic(8, 8)} == {tasks.row_operation, tasks.adamw, tasks.gradient_norm}
    for maker in (limits.bound, decode.decoding, tasks.row_operation, tasks.adamw, tasks.gradient_norm):
        assert getattr(sys.modules[maker.__module__], maker.__name__) is maker


def test_bandwidth_updates_the_arrays_of_the_books_gpt():
    from chapters.ch06_gpt import GPT, GPTConfig
    from kernels.bench import tasks

    gpt = GPT(GPTConfig.preset("book", vocab_size=512))
    assert [list(parameter.shape) for parameter in gpt.parameters()] == tasks.BOOK_GPT


def test_every_kernel_repeats_its_bytes():
    """Threads draw tasks as they come, and buffers hold old numbers; the results must depend on neither."""

    def results():
        for _, function, args, settings in cases.cases(np.random.default_rng(3)):
            outcome = getattr(SETS["cpu"], function)(*args, **settings)
            yield cases.describe(function, args, settings), cases.moved((outcome, args, settings), np.ndarray.tobytes)

    first = list(results())
    assert len(first) > 100
    for (name, want), (_, got) in zip(first, results(), strict=True):
        assert got == want, name


def twice(x):
    return x + x


def flip(place):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[place(len(content))] ^= 4
        path.write_bytes(content)

    return damage


def shorten(length):
    return lambda path: path.write_bytes(path.read_bytes()[: length(path.stat().st_size)])


DAMAGE = {
    "empty": shorten(lambda size: 0),
    "half": shorten(lambda size: size // 2),
    "without the last byte": shorten(lambda size: size - 1),
    "another first byte": flip(lambda size: 0),
    "another byte in the digest of the sources": flip(lambda size: 40),
    "another byte in the middle": flip(lambda size: size // 2),
    "another last byte": flip(lambda size: size - 1),
    "a byte more": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "other contents": lambda path: path.write_bytes(b"\xaf garbage \0" * 40),
}


def call_twice(folder, monkeypatch, argument=1.5):
    """Call `twice` as in a new process; return the result, whether it came from the cache, and the warnings."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    monkeypatch.setattr(launch, "_warned", False)
    function = launch._cache_on_disk(launch.njit(twice))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(argument)
    return result, bool(function.stats.cache_hits), [str(warning.message) for warning in caught]


def cached_files(folder):
    return sorted(path for path in folder.rglob("*") if path.parent != folder)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_in_the_cache_is_rebuilt_with_a_warning(tmp_path, monkeypatch, damage):
    assert call_twice(tmp_path, monkeypatch) == (3.0, False, [])
    assert call_twice(tmp_path, monkeypatch) == (3.0, True, [])
    (path,) = cached_files(tmp_path)
    damage(path)
    result, hit, (warning,) = call_twice(tmp_path, monkeypatch)
    assert (result, hit) == (3.0, False) and warning.startswith("rebuilding a damaged file")
    assert call_twice(tmp_path, monkeypatch) == (3.0, True, [])


def test_a_missing_or_exchanged_file_in_the_cache_is_rebuilt(tmp_path, monkeypatch):
    call_twice(tmp_path, monkeypatch, 1.5)
    (floats,) = cached_files(tmp_path)
    call_twice(tmp_path, monkeypatch, 2)
    (integers,) = set(cached_files(tmp_path)) - {floats}
    integers.replace(floats)
    for argument in (1.5, 2):
        assert call_twice(tmp_path, monkeypatch, argument) == (2 * argument, False, [])
        assert call_twice(tmp_path, monkeypatch, argument) == (2 * argument, True, [])


def test_a_folder_in_the_place_of_a_cached_file_is_reported(tmp_path, monkeypatch):
    call_twice(tmp_path, monkeypatch)
    (path,) = cached_files(tmp_path)
    path.unlink()
    path.mkdir()
    result, hit, (warning,) = call_twice(tmp_path, monkeypatch)
    assert (result, hit) == (3.0, False) and "cannot be cached on disk" in warning
    assert cached_files(tmp_path) == [path]  # no temporary file stays


DROPOUT = "import numpy as np, kernels; print(kernels.serving(x := np.ones((4, 8), np.float32)).dropout(x, 0.5, 3).sum())"


def test_two_processes_may_fill_the_cache_at_once_and_a_damaged_kernel_does_not_crash(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: python(DROPOUT, NUMBA_CACHE_DIR=str(tmp_path)), range(2))
    assert first.returncode == second.returncode == 0 and first.stdout == second.stdout
    loaded = python(DROPOUT, NUMBA_CACHE_DIR=str(tmp_path))
    assert loaded.stdout == first.stdout and loaded.stderr == ""
    for path in cached_files(tmp_path):
        flip(lambda size: size // 3)(path)
    rebuilt = python(DROPOUT, NUMBA_CACHE_DIR=str(tmp_path))
    assert rebuilt.stdout == first.stdout and rebuilt.stderr.count("rebuilding a damaged file") == 1


def test_kernels_are_compiled_for_the_requested_features_that_the_processor_has(tmp_path):
    present = get_host_cpu_features()
    lacking = [name for name in ("avx512f", "amx-tile", *present) if not present.get(name, True)]
    if not lacking:
        pytest.skip("LLVM names no feature that this processor lacks")
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    plain, spoiled, cached, other = (
        python(GELU + "; from kernels import simd; print(simd.WIDTH)", **generic, **features)
        for features in ({}, {"NUMBA_CPU_FEATURES": f"avx2,+{lacking[0]}"}, {}, {"NUMBA_CPU_FEATURES": "-x87"})
    )
    for result in (plain, spoiled, cached, other):
        assert result.returncode == 0 and result.stdout.split()[-1] == "4", result.stderr
        assert result.stdout == plain.stdout and "0.84" in result.stdout
    assert "compiling" in plain.stderr and cached.stderr == ""
    assert spoiled.stderr == (
        "NUMBA_CPU_FEATURES: expected features of this processor, each with + or -, "
        f"got avx2, +{lacking[0]}; compiling without\n"
    )
    assert "compiling" in other.stderr  # kernels for other features are not taken from the cache


WITHOUT_COMPILER = """
import kernels, minigrad as mg, numpy as np
from chapters.ch06_gpt import GPT, GPTConfig
from minigrad import processor

def losses():
    mg.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=20, context=8, n_layer=1, n_head=2, d_model=8))
    optimizer = mg.optim.AdamW(model.parameters(), lr=0.01)
    ids = mg.tensor(np.arange(16).reshape(2, 8))
    for _ in range(2):
        loss = mg.nn.functional.cross_entropy(model(ids).reshape(-1, 20), ids.reshape(-1))
        loss.backward()
        optimizer.step()
        yield loss.item()

processor.precompile()
x = mg.ones(3, 4, requires_grad=True)
(x @ x.T).sum().backward()
assert x.grad.numpy().tolist() == [[6.0] * 4] * 3
disabled = list(losses())
with kernels.use("reference"):
    print(disabled == list(losses()))
"""


def test_without_the_compiler_the_reference_kernels_work():
    result = python(WITHOUT_COMPILER, NUMBA_DISABLE_JIT="1")
    assert result.stdout == "True\n", result.stderr
    assert result.stderr.startswith("NUMBA_DISABLE_JIT is set") and result.stderr.count("\n") == 1
    assert "got NUMBA_DISABLE_JIT=1; unset it" in python("import kernels.gelu.cpu", NUMBA_DISABLE_JIT="1").stderr
