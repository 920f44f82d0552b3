// The subset of CUDA C that this project's kernels use, for g++, which compiles every .cu file with -include cuda.h. CUDA's
// keywords become macros here. Operations between threads (barriers, shuffles, tensor cores) are in runtime.cpp.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

// ---- Keywords -------------------------------------------------------------------------------------------------------------
#define __global__
#define __device__
#define __forceinline__ static inline
#define __launch_bounds__(...)
// Blocks run one after another, so a block's shared memory can be a static array. All these arrays lie in a linker section of
// their own. The runtime finds its two ends, fills it with NaN before every block, and watches it in checked mode.
#define __shared__ static __attribute__((section("emulated_shared"), aligned(16)))
#define DYNAMIC_SHARED(name) float* name = (float*)emulator::dynamic_shared()

struct uint3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---- The runtime's functions ----------------------------------------------------------------------------------------------
// `line` is always EMULATOR_LINE: a line, and a bit that says whether it is in the included header (its name ends in h).
#define EMULATOR_LINE (__LINE__ | ((__FILE__[sizeof(__FILE__) - 2] == 'h') << 20))

namespace emulator {
struct Place { uint3 thread, block, block_size, grid_size; };
extern Place place;  // the running thread's

// Stops the launch with a message. Python replaces every <code> in it by a line of the source. The code is what at_line returns,
// or an address in the compiled file.
[[noreturn]] void fail(const char* format, ...);
inline unsigned at_line(int line) { return 1u << 31 | line; }
void* dynamic_shared();
void barrier(int line);
void warp_barrier(int line, unsigned mask);

// A warp-wide operation. Every lane in `mask` calls this with its own payload and sleeps. The last lane to arrive triggers
// a single call of `run` with all payloads (null for lanes outside the mask). It reads every lane's input and fills in
// every lane's result.
typedef void (*WarpOperation)(void* const payload[32], unsigned mask);
void warp_operation(int line, unsigned mask, WarpOperation run, void* payload);

void check_atomic(const void* address, int bytes, int line);
inline int lane() { return (place.thread.x + place.block_size.x * (place.thread.y + place.block_size.y * place.thread.z)) % 32; }

struct Shuffle { uint64_t bits, result; int source; };
void run_shuffle(void* const payload[32], unsigned mask);
template <class T> T shuffle(int line, unsigned mask, T value, int source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    Shuffle s = {0, 0, source & 31};
    memcpy(&s.bits, &value, sizeof(T));
    if (!(mask >> (source & 31) & 1)) fail("<%x>: a shuffle reads lane %d, which the mask %08x leaves out", at_line(line), source & 31, mask);
    warp_operation(line, mask, run_shuffle, &s);
    memcpy(&value, &s.result, sizeof(T));
    return value;
}
unsigned ballot(int line, unsigned mask, bool vote);

// D (16, 8) += A (16, 8 words) B (8 words, 8): the tensor cores' m16n8k8 (a word is one TF32) and m16n8k16 (a word is two
// BF16).
void tensor_core(int line, float* d, const unsigned* a, const unsigned* b, bool bf16);

// Asynchronous copies from global to shared memory; copies.inc explains them.
void copy_async(int line, void* to, const void* from, int bytes, int valid);
void commit_copies();
void wait_for_copies(int newest);

template <class T> T atomic_add(int line, T* address, T value) {
    check_atomic(address, sizeof(T), line);
    T old;
    memcpy(&old, address, sizeof(T));
    T sum = old + value;
    memcpy(address, &sum, sizeof(T));  // atomic, since threads switch only at barriers and warp operations
    return old;
}
}  // namespace emulator

#define threadIdx (emulator::place.thread)
#define blockIdx (emulator::place.block)
#define blockDim (emulator::place.block_size)
#define gridDim (emulator::place.grid_size)

#define __syncthreads() emulator::barrier(EMULATOR_LINE)
#define __syncwarp(...) emulator::warp_barrier(EMULATOR_LINE, emulator_mask(__VA_ARGS__))
static inline unsigned emulator_mask(unsigned mask = 0xffffffffu) { return mask; }
#define __shfl_sync(mask, value, source) emulator::shuffle(EMULATOR_LINE, mask, value, source)
#define __shfl_xor_sync(mask, value, bits) emulator::shuffle(EMULATOR_LINE, mask, value, emulator::lane() ^ (bits))
#define __ballot_sync(mask, vote) emulator::ballot(EMULATOR_LINE, mask, vote)
#define __any_sync(mask, vote) (emulator::ballot(EMULATOR_LINE, mask, vote) != 0)
#define atomicAdd(address, value) emulator::atomic_add(EMULATOR_LINE, address, value)

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline float __int_as_float(int i) { float f; memcpy(&f, &i, 4); return f; }
static inline unsigned __float_as_uint(float f) { unsigned i; memcpy(&i, &f, 4); return i; }
