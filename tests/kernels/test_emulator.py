"""The emulator computes a GPU's results, catches every planted fault, and names its line."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from kernels import emulator, gpu
from kernels.emulator import LaunchError

pytestmark = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")

i32, f32 = np.int32, np.float32

# Kernels in FAULTS have one fault each, which the name describes. They run with 64 threads on x of 64 floats.
FAULTY = """\
extern "C" __global__ void no_barrier_before_reading(const float* x, float* y) {
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void no_barrier_before_overwriting(const float* x, float* y) {
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x];
    s[threadIdx.x] = 0.0f;
}
extern "C" __global__ void two_threads_write_the_same_element(const float* x, float* y) {
    y[threadIdx.x / 2] = x[threadIdx.x];
}
extern "C" __global__ void lost_update_between_blocks(const float* x, float* y) {
    if (threadIdx.x == 0) y[0] += x[0];
}
extern "C" __global__ void no_warp_barrier(const float* x, float* y) {
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[threadIdx.x ^ 1];
}
extern "C" __global__ void past_the_end(const float* x, float* y) {
    y[threadIdx.x] = x[threadIdx.x + 1];
}
extern "C" __global__ void before_the_start(const float* x, float* y) {
    y[(int)threadIdx.x - 1] = x[threadIdx.x];
}
extern "C" __global__ void past_a_row(const float* x, float* y) {
    __shared__ float s[2][32];
    s[threadIdx.x / 32][threadIdx.x % 32] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[0][threadIdx.x];
}
extern "C" __global__ void misaligned_quad(const float* x, float* y) {
    if (threadIdx.x < 8) *(float4*)(y + 4 * threadIdx.x + 1) = *(const float4*)(x + 4 * threadIdx.x);
}
extern "C" __global__ void unwritten_shared_memory(const float* x, float* y) {
    __shared__ float s[64];
    if (threadIdx.x < 63) s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void barrier_some_threads_never_reach(const float* x, float* y) {
    if (threadIdx.x < 32) __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
extern "C" __global__ void two_barriers_at_once(const float* x, float* y) {
    if (threadIdx.x < 32) __syncthreads();
    else __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
extern "C" __global__ void shuffle_with_a_lane_that_returned(const float* x, float* y) {
    if (threadIdx.x % 32 == 31) return;
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
}
extern "C" __global__ void shuffle_from_outside_the_mask(const float* x, float* y) {
    if (threadIdx.x % 32 < 16) y[threadIdx.x] = __shfl_sync(0x0000ffffu, x[threadIdx.x], 20);
}
extern "C" __global__ void mask_without_the_caller(const float* x, float* y) {
    __syncwarp(0x0000ffffu);
    y[threadIdx.x] = x[threadIdx.x];
}
extern "C" __global__ void writes_to_a_const_array(const float* x, float* y) {
    ((float*)x)[threadIdx.x] = y[threadIdx.x];
}
extern "C" __global__ void copy_without_a_wait(const float* x, float* y) {
    __shared__ float s[64];
    emulator::copy_async(__LINE__, s + threadIdx.x, x + threadIdx.x, 4, 4);
    emulator::commit_copies();
    __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void one_group_too_few(const float* x, float* y) {
    __shared__ float s[2][64];
    for (int i = 0; i < 2; ++i) {
        emulator::copy_async(__LINE__, &s[i][threadIdx.x], x + threadIdx.x, 4, 4);
        emulator::commit_copies();
    }
    emulator::wait_for_copies(1);
    y[threadIdx.x] = s[1][threadIdx.x];
}
extern "C" __global__ void no_barrier_after_the_wait(const float* x, float* y) {
    __shared__ float s[64];
    emulator::copy_async(__LINE__, s + threadIdx.x, x + threadIdx.x, 4, 4);
    emulator::commit_copies();
    emulator::wait_for_copies(0);
    y[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void copy_over_what_others_read(const float* x, float* y) {
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x];
    emulator::copy_async(__LINE__, s + threadIdx.x, x + threadIdx.x, 4, 4);
}
extern "C" __global__ void copy_past_the_end(const float* x, float* y) {
    __shared__ float4 s[64];
    emulator::copy_async(__LINE__, s + threadIdx.x, x + 4 * (threadIdx.x % 17), 16, 16);
}
extern "C" __global__ void misaligned_copy(const float* x, float* y) {
    __shared__ float4 s[64];
    emulator::copy_async(__LINE__, s + threadIdx.x, x + threadIdx.x % 32, 16, 16);
}
extern "C" __global__ void part_of_a_quad(const float* x, float* y) {  // the last quad: three numbers and a zero
    __shared__ float4 s[16];
    emulator::copy_async(__LINE__, s + threadIdx.x, x + 4 * threadIdx.x, 16, threadIdx.x < 14 ? 16 : 12);
    emulator::commit_copies();
    emulator::wait_for_copies(0);
    for (int i = 0; i < 4; ++i) y[4 * threadIdx.x + i] = ((float*)&s[threadIdx.x])[i];
}
extern "C" __global__ void adds_a_pair(const float* x, float* y) {
    if (threadIdx.x == 0) atomicAdd((double*)y, (double)x[0]);
}
extern "C" __global__ void right_copies(const float* x, float* y) {  // two tiles alternate; the next is always on its way
    __shared__ float s[2][64];
    emulator::copy_async(__LINE__, &s[0][threadIdx.x], x + threadIdx.x, 4, 4);
    emulator::commit_copies();
    for (int i = 0; i < 4; ++i) {
        emulator::copy_async(__LINE__, &s[(i + 1) % 2][threadIdx.x], x + threadIdx.x, 4, i < 3 ? 4 : 0);
        emulator::commit_copies();
        emulator::wait_for_copies(1);
        __syncthreads();
        y[threadIdx.x] += s[i % 2][63 - threadIdx.x];
        __syncthreads();
    }
    emulator::wait_for_copies(0);
    y[threadIdx.x] += s[0][threadIdx.x];  // zeros, since the last copy read nothing
}
extern "C" __global__ void right(const float* x, float* y) {
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    const float neighbour = s[threadIdx.x ^ 1];
    __syncthreads();
    s[threadIdx.x] = neighbour;
    __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x];
    if (threadIdx.x == 0) atomicAdd(y + 64, 1.0f);
}
extern "C" __global__ void votes(const float* x, float* y, int n) {
    const unsigned positive = __ballot_sync(0xffffffffu, x[threadIdx.x] > 0.0f);
    y[threadIdx.x] = (float)__popc(positive) + 100.0f * (float)__any_sync(0xffffffffu, x[threadIdx.x] > (float)n);
}
"""
FAULTS = {  # kernel: (pattern of the message, words of the line that it names)
    "no_barrier_before_reading": ("no thread has written", "s[63 - threadIdx.x]"),
    "no_barrier_before_overwriting": ("race", "s[threadIdx.x] = 0.0f"),
    "two_threads_write_the_same_element": ("race: its write .* the write", "y[threadIdx.x / 2]"),
    "lost_update_between_blocks": ("race: .* another block", "y[0] += x[0]"),
    "no_warp_barrier": ("no thread has written", "s[threadIdx.x ^ 1]"),
    "past_the_end": ("out of bounds: a read of 4 bytes", "x[threadIdx.x + 1]"),
    "before_the_start": ("out of bounds: a write of 4 bytes", "y[(int)threadIdx.x - 1]"),
    "past_a_row": ("out of bounds: index (3[2-9]|[456].)", "s[0][threadIdx.x]"),
    "misaligned_quad": ("misaligned", "float4"),
    "unwritten_shared_memory": ("no thread has written", "y[threadIdx.x] = s[threadIdx.x]"),
    "barrier_some_threads_never_reach": (
        "waits here forever: 32 of the block's 64 threads have returned",
        "__syncthreads",
    ),
    "two_barriers_at_once": ("different __syncthreads, line [0-9]+ and line [0-9]+", None),
    "shuffle_with_a_lane_that_returned": ("names lane 31, which has returned", "__shfl_xor_sync"),
    "shuffle_from_outside_the_mask": ("reads lane 20, which the mask 0000ffff leaves out", "__shfl_sync"),
    "mask_without_the_caller": ("leaves out the calling lane", "__syncwarp(0x0000ffffu)"),
    "copy_without_a_wait": ("read .* while the asynchronous copy of line .* may still write it", "s[63 - threadIdx.x]"),
    "one_group_too_few": ("may still write it; wait for the copy first", "s[1][threadIdx.x]"),
    "no_barrier_after_the_wait": ("no thread has written", "s[63 - threadIdx.x]"),
    "copy_over_what_others_read": ("read .* while the asynchronous copy of line .* may still write it", "s[63 - threadIdx.x]"),
    "copy_past_the_end": ("out of bounds: a read of 16 bytes", "copy_async"),
    "misaligned_copy": ("misaligned: an asynchronous copy of 16 bytes", "copy_async"),
    "writes_to_a_const_array": ("write to a const or read-only array", "((float*)x)[threadIdx.x]"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    path = tmp_path_factory.mktemp("faulty") / "faulty.cu"
    path.write_text(FAULTY)
    return gpu.Source(path)


def arrays():
    x = np.random.default_rng(0).standard_normal(64).astype(f32)
    return x, np.zeros(64, f32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kernel", FAULTS)
def test_every_planted_fault_is_caught_and_its_line_named(faulty, kernel, seed):
    message, words = FAULTS[kernel]
    with emulator.settings(checked=True, seed=seed), pytest.raises(LaunchError, match=message) as caught:
        faulty.launch(kernel, (2,) if "between_blocks" in kernel else (1,), (64,), *arrays())
    if words is not None:
        begin = FAULTY[: FAULTY.index(f"void {kernel}(")].count("\n")
        lines = [i + 1 for i, line in enumerate(FAULTY.splitlines()) if words in line and i >= begin]
        assert f"line {lines[0]}" in str(caught.value)


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_correct_kernel_passes(faulty, checked, seed):
    x, y = np.arange(64, dtype=f32), np.zeros(65, f32)
    with emulator.settings(checked=checked, seed=seed):
        faulty.launch("right", (1,), (64,), x, y)
    assert np.array_equal(y[:64], (np.arange(64) ^ 1)[::-1]) and y[64] == 1


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_asynchronous_copies_arrive_in_the_wait(faulty, checked, seed):
    x, y = np.arange(64, dtype=f32), np.zeros(64, f32)
    with emulator.settings(checked=checked, seed=seed):
        faulty.launch("right_copies", (1,), (64,), x, y)
    assert np.array_equal(y, 4 * x[::-1])


def test_a_copy_of_part_of_a_quad_is_no_fault(faulty):
    x, y = np.arange(64, dtype=f32), np.zeros(64, f32)
    with emulator.settings(checked=True):
        faulty.launch("part_of_a_quad", (1,), (15,), x[:59], y)  # x[59] lies past the end: no thread may read it
    assert np.array_equal(y, np.where(x < 59, x, 0))


def aligned(n):
    """n zeros; the first lies at a multiple of 16 bytes."""
    room = np.zeros(n + 4, f32)
    return room[-gpu.address(room) % 16 // 4 :][:n]


def test_alignment_is_a_property_of_the_address_even_if_two_slices_overlap(faulty):
    base = aligned(80)
    with emulator.settings(checked=True):  # only the address counts, since a slice may begin at any element
        faulty.launch("adds_a_pair", (1,), (1,), base[1:5], base[2:10])
        with pytest.raises(LaunchError, match="misaligned: a write of 8 bytes"):
            faulty.launch("adds_a_pair", (1,), (1,), base[3:5], base[3:9])


def test_a_copy_without_a_wait_shows_without_the_checks_too(faulty):
    x, y = np.arange(64, dtype=f32), np.zeros(64, f32)
    faulty.launch("copy_without_a_wait", (1,), (64,), x, y)
    assert np.isnan(y).all()


def test_after_a_fault_the_next_launch_starts_afresh(faulty):
    with emulator.settings(checked=True):
        with pytest.raises(LaunchError):
            faulty.launch("barrier_some_threads_never_reach", (1,), (64,), *arrays())
        faulty.launch("right", (1,), (64,), np.arange(64, dtype=f32), np.zeros(65, f32))


def test_votes_of_a_warp(faulty):
    x, y = np.full(32, -1, f32), np.zeros(32, f32)
    x[:5] = 3
    faulty.launch("votes", (1,), (32,), x, y, i32(2))
    assert (y == 105).all()


@pytest.mark.parametrize(
    "args, message",
    [
        (lambda x, y: (x, y, 2), "votes, n: expected np.int32, got int: kernel launches do not convert arguments"),
        (lambda x, y: (x, y, np.int64(2)), "votes, n: expected np.int32, got int64"),
        (lambda x, y: (x.astype(np.float64), y, i32(2)), "votes, x: expected elements of float32, got float64"),
        (lambda x, y: (np.zeros((64, 2), f32)[:, 0], y, i32(2)), "votes, x: expected a contiguous array, got strides"),
        (lambda x, y: (x, y), "votes: expected 3 arguments, got 2"),
        (lambda x, y: (x, [1.0] * 32, i32(2)), "votes, y: expected an array of numpy .*, got list"),
        (lambda x, y: ([1.0] * 32, y, i32(2)), "expected a NumPy or CuPy array, got list"),
    ],
)
def test_an_argument_that_does_not_fit_is_refused(faulty, args, message):
    with pytest.raises(TypeError, match=message):
        faulty.launch("votes", (1,), (32,), *args(*arrays()))


def test_a_kernel_that_does_not_compile_shows_the_compilers_message(tmp_path):
    path = tmp_path / "wrong.cu"
    path.write_text('extern "C" __global__ void wrong(float* x) { x[0] = undeclared; }')
    with pytest.raises(LaunchError, match="undeclared"):
        gpu.Source(path).launch("wrong", (1,), (1,), np.zeros(1, f32))


def test_a_damaged_file_in_the_cache_is_compiled_again(tmp_path, monkeypatch):
    monkeypatch.setattr(emulator, "_cache", lambda: tmp_path)
    source = tmp_path / "twice.cu"
    source.write_text('extern "C" __global__ void twice(float* x) { x[0] *= 2; }')

    def twice():
        emulator._compile.cache_clear()
        emulator.Emulated(source).launch("twice", (1,), (1,), [x := np.ones(1, f32)])
        return x[0]

    assert twice() == 2
    (library,), (runtime,) = tmp_path.glob("*.so"), tmp_path.glob("*.o")
    content = library.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:-1], bytes([content[0] ^ 4]) + content[1:]):
        library.unlink()  # a library in use must not change
        library.write_bytes(damaged)
        with pytest.warns(UserWarning, match="rebuilding a damaged file in the emulator's cache: .*[.]so"):
            assert twice() == 2
    library.unlink()
    runtime.write_bytes(runtime.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="rebuilding a damaged file in the emulator's cache: .*[.]o"):
        assert twice() == 2
    library.unlink()
    library.mkdir()
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(LaunchError, match="set MINIGRAD_CACHE to another folder"):
        twice()
    assert not list(tmp_path.glob(".*"))


HEADER = """\
__device__ __forceinline__ float neighbour(const float* x) {
    return x[threadIdx.x + 1];
}
__device__ __forceinline__ float shuffled(float v) { return __shfl_sync(0x0000ffffu, v, 20); }
"""
INCLUDING = """\
#include "../faulty.cuh"
extern "C" __global__ void reads_past_the_end(const float* x, float* y) { y[threadIdx.x] = neighbour(x); }
extern "C" __global__ void shuffles(const float* x, float* y) { if (threadIdx.x < 16) y[threadIdx.x] = shuffled(x[0]); }
extern "C" __global__ void writes_past_the_end(const float* x, float* y) {
    y[threadIdx.x + 1] = x[threadIdx.x];
}
"""


def test_faults_in_an_included_header_name_its_lines_and_a_changed_header_is_compiled_again(tmp_path):
    path, header = tmp_path / "kernel" / "cuda.cu", tmp_path / "faulty.cuh"
    path.parent.mkdir()
    path.write_text(INCLUDING)
    header.write_text(HEADER)
    places = {
        "reads_past_the_end": "line 2 of faulty.cuh",
        "shuffles": "line 4 of the included header: a shuffle reads lane 20",
        "writes_past_the_end": "at line 5, outside every array",
    }
    for kernel, place in places.items():
        with emulator.settings(checked=True), pytest.raises(LaunchError, match=place):
            gpu.Source(path).launch(kernel, (1,), (64,), *arrays())
    header.write_text(HEADER.replace("x[threadIdx.x + 1]", "x[threadIdx.x]"))
    x, y = arrays()
    gpu.Source(path).launch("reads_past_the_end", (1,), (64,), x, y)
    assert np.array_equal(x, y)


def test_the_tensor_core_follows_the_layout_in_the_manual(tmp_path):
    """m16n8k8 in TF32, with fragments filled lane by lane from two matrices, gives NumPy's product."""
    path = tmp_path / "mma.cu"
    path.write_text(
        textwrap.dedent("""\
        extern "C" __global__ void mma(const float* A, const float* B, float* D) {
            const int g = threadIdx.x / 4, q = threadIdx.x % 4;
            const unsigned a[4] = {__float_as_uint(A[g * 8 + q]), __float_as_uint(A[(g + 8) * 8 + q]),
                                   __float_as_uint(A[g * 8 + q + 4]), __float_as_uint(A[(g + 8) * 8 + q + 4])};
            const unsigned b[2] = {__float_as_uint(B[q * 8 + g]), __float_as_uint(B[(q + 4) * 8 + g])};
            float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            emulator::tensor_core(__LINE__, d, a, b, false);
            for (int n = 0; n < 4; ++n) D[(g + n / 2 * 8) * 8 + 2 * q + n % 2] = d[n];
        }
        """)
    )
    rng = np.random.default_rng(0)
    A, B = (rng.integers(-100, 100, s).astype(f32) for s in ((16, 8), (8, 8)))  # small integers: exact in TF32
    D = np.full((16, 8), np.nan, f32)
    gpu.Source(path).launch("mma", (1,), (32,), A, B, D)
    assert np.array_equal(D, A @ B)


def test_the_lesson_runs(capfd):
    process = subprocess.run(
        [sys.executable, "-m", "kernels.emulator", "kernels/softmax/cuda.cu"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    for word in ("softmax_plain", "thread", "race", "line"):
        assert word in process.stdout
