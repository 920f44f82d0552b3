// A single CPU thread runs a whole GPU block. Every CUDA thread is a fibre: it has its own stack, leaves it at a barrier, and
// returns to it later. The scheduler below runs all fibres that are ready, in a random order that changes every round. When
// none is ready, it opens the barrier that they wait at. Blocks run one after another, in a random order too.
//
// This file is compiled without instrumentation. It includes checker.inc (the checked mode) and copies.inc at the end.
#include "cuda.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

// ---- Switching stacks -----------------------------------------------------------------------------------------------------
// A caller may rely only on the registers that the calling convention tells the callee to preserve. So a switch pushes these on
// the old stack, exchanges the stack pointer, and pops them from the new stack.
#if defined(__x86_64__)
asm(R"(
    .text
    .globl emulator_switch_stack
    .hidden emulator_switch_stack
    .type emulator_switch_stack, @function
emulator_switch_stack:              # (void** leave in rdi, void* enter in rsi)
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch_stack, . - emulator_switch_stack
)");
extern "C" void emulator_switch_stack(void** leave, void* enter);
static void* new_stack(char* end, void (*entry)()) {
    void** top = (void**)end;   // end is a multiple of 16; a function expects to start 8 bytes below such an address
    *--top = nullptr;           // the return address of `entry`, which never returns
    *--top = (void*)entry;      // where the `ret` above jumps
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    return top;
}
#elif defined(__aarch64__)
asm(R"(
    .text
    .globl emulator_switch_stack
    .hidden emulator_switch_stack
    .type emulator_switch_stack, %function
emulator_switch_stack:              // (void** leave in x0, void* enter in x1)
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emulator_switch_stack, . - emulator_switch_stack
)");
extern "C" void emulator_switch_stack(void** leave, void* enter);
static void* new_stack(char* end, void (*entry)()) {
    void** top = (void**)(end - 160);
    std::fill(top, top + 20, nullptr);
    top[11] = (void*)entry;  // x30, the link register, where `ret` jumps
    return top;
}
#else  // other processors: the C library's fibres, slower, since they save the signal mask with a system call
#include <ucontext.h>
static void emulator_switch_stack(void** leave, void* enter) {
    ucontext_t here;
    *leave = &here;
    swapcontext(&here, (ucontext_t*)enter);
}
static void* new_stack(char* end, void (*entry)()) {
    ucontext_t* context = (ucontext_t*)(((uintptr_t)end - sizeof(ucontext_t)) & ~(uintptr_t)63);
    getcontext(context);
    context->uc_stack.ss_sp = end - (192 << 10);
    context->uc_stack.ss_size = (char*)context - (char*)context->uc_stack.ss_sp;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    return context;
}
#endif

extern "C" {  // the ends of the section with all __shared__ arrays, set by the linker; absent if a file has none
extern char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));
}

namespace emulator {
constexpr size_t STACK = 256 << 10;
constexpr size_t GUARD = 4 << 10;  // an unmapped page below each stack: an overflow stops the program at once

enum State { READY, AT_BARRIER, AT_WARP_BARRIER, AT_WARP_OPERATION, RETURNED };

struct Fibre {
    char* memory = nullptr;
    void* stack = nullptr;  // the stack pointer at the last switch
    uint3 thread;
    int index;              // its number in the block; index / 32 is the warp
    State state;
    int line;               // the line of the barrier or warp operation where it waits
    unsigned mask;
    WarpOperation operation;
    void* payload;
};

struct Argument { char* begin; size_t bytes; int read_only; };

Place place;
static std::vector<Fibre> fibres;  // reused by the next launch
static Fibre* running = nullptr;   // null while the scheduler runs
static void* scheduler_stack;
static char message[1024];
static void (*kernel)(void**);
static void** kernel_arguments;
static std::vector<float4> dynamic;  // float4 for its alignment
static int block_number;
static unsigned block_epoch;               // counts the __syncthreads that have opened in this block
static std::vector<unsigned> warp_epoch;   // counts the __syncwarp that have opened in each warp

void* dynamic_shared() { return dynamic.data(); }

static void describe(const char* format, va_list list) {
    int n = snprintf(message, sizeof message, "block (%u,%u,%u)", place.block.x, place.block.y, place.block.z);
    if (running) {
        const uint3 t = running->thread;
        n += snprintf(message + n, sizeof message - n, " thread (%u,%u,%u)", t.x, t.y, t.z);
    }
    n += snprintf(message + n, sizeof message - n, ": ");
    vsnprintf(message + n, sizeof message - n, format, list);
}

static void leave_fibre() { emulator_switch_stack(&running->stack, scheduler_stack); }

void fail(const char* format, ...) {  // for fibres; the fibre never runs again
    va_list list;
    va_start(list, format);
    describe(format, list);
    va_end(list);
    leave_fibre();
    __builtin_unreachable();
}

static bool stop(const char* format, ...) {  // for the scheduler
    va_list list;
    va_start(list, format);
    describe(format, list);
    va_end(list);
    return false;
}

// ---- Barriers and warp operations, as a fibre calls them ------------------------------------------------------------------
static void wait(State state, int line, unsigned mask) {
    running->state = state;
    running->line = line;
    running->mask = mask;
    leave_fibre();
}

static void wait_in_warp(State state, int line, unsigned mask) {
    if (!(mask >> (running->index % 32) & 1)) fail("<%x>: the mask %08x leaves out the calling lane", at_line(line), mask);
    wait(state, line, mask);
}

void barrier(int line) { wait(AT_BARRIER, line, 0); }
void warp_barrier(int line, unsigned mask) { wait_in_warp(AT_WARP_BARRIER, line, mask); }
void warp_operation(int line, unsigned mask, WarpOperation run, void* payload) {
    running->operation = run;
    running->payload = payload;
    wait_in_warp(AT_WARP_OPERATION, line, mask);
}

void run_shuffle(void* const payload[32], unsigned mask) {
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) ((Shuffle*)payload[i])->result = ((Shuffle*)payload[((Shuffle*)payload[i])->source])->bits;
}

struct Vote { bool vote; unsigned result; };
static void run_ballot(void* const payload[32], unsigned mask) {
    unsigned votes = 0;
    for (int i = 0; i < 32; ++i)
        if ((mask >> i & 1) && ((Vote*)payload[i])->vote) votes |= 1u << i;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) ((Vote*)payload[i])->result = votes;
}
unsigned ballot(int line, unsigned mask, bool vote) {
    Vote mine = {vote, 0};
    warp_operation(line, mask, run_ballot, &mine);
    return mine.result;
}

// The lanes' elements, from the PTX manual, "Matrix fragments for mma.m16n8k8" and "... m16n8k16". With g = lane / 4 and q =
// lane % 4, in 32-bit words:
//   A: word 0 is (row g, word q), 1 is (g + 8, q), 2 is (g, q + 4), 3 is (g + 8, q + 4)
//   B: word 0 is (word q, column g), 1 is (q + 4, g)
//   D: number 0 is (row g, column 2q), 1 is (g, 2q + 1), 2 is (g + 8, 2q), 3 is (g + 8, 2q + 1)
struct Fragments { float* d; const unsigned *a, *b; };
static float as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }

static void run_tensor_core(void* const payload[32], bool bf16) {
    float A[16][16], B[16][8];
    const int per_word = bf16 ? 2 : 1;
    auto element = [bf16](unsigned word, int e) {
        return bf16 ? as_float(e ? word & 0xffff0000u : word << 16) : as_float(word & 0xffffe000u);  // TF32 ignores 13 bits
    };
    for (int lane = 0; lane < 32; ++lane) {
        const Fragments& f = *(Fragments*)payload[lane];
        const int g = lane / 4, q = lane % 4;
        for (int e = 0; e < per_word; ++e) {
            for (int w = 0; w < 4; ++w) A[g + w % 2 * 8][(q + w / 2 * 4) * per_word + e] = element(f.a[w], e);
            for (int w = 0; w < 2; ++w) B[(q + w * 4) * per_word + e][g] = element(f.b[w], e);
        }
    }
    for (int lane = 0; lane < 32; ++lane) {
        float* d = ((Fragments*)payload[lane])->d;
        const int g = lane / 4, q = lane % 4;
        for (int i = 0; i < 4; ++i)
            for (int k = 0; k < 8 * per_word; ++k) d[i] += A[g + i / 2 * 8][k] * B[k][2 * q + i % 2];
    }
}
static void run_tf32(void* const payload[32], unsigned) { run_tensor_core(payload, false); }
static void run_bf16(void* const payload[32], unsigned) { run_tensor_core(payload, true); }
void tensor_core(int line, float* d, const unsigned* a, const unsigned* b, bool bf16) {
    Fragments mine = {d, a, b};
    warp_operation(line, 0xffffffffu, bf16 ? run_bf16 : run_tf32, &mine);
}

// ---- The scheduler -------------------------------------------------------------------------------------------------------
static void fibre_body() {
    for (;;) {
        kernel(kernel_arguments);
        wait(RETURNED, 0, 0);  // the next block continues here
    }
}

static void enter(Fibre& f) {
    running = &f;
    place.thread = f.thread;
    f.state = READY;
    emulator_switch_stack(&scheduler_stack, f.stack);
    running = nullptr;
}

// Releases the lanes of a warp from barriers and warp operations at which all lanes of the mask have arrived. False if a
// barrier or operation can never open.
static bool release_warp(Fibre* lanes, int n, bool* opened) {
    for (int i = 0; i < n; ++i) {
        const Fibre f = lanes[i];
        if (f.state != AT_WARP_BARRIER && f.state != AT_WARP_OPERATION) continue;
        const unsigned present = n == 32 ? 0xffffffffu : (1u << n) - 1;
        if (f.mask != 0xffffffffu && (f.mask & ~present))
            return stop("<%x>: the mask %08x names lanes that the block does not have", at_line(f.line), f.mask);
        const unsigned mask = f.mask & present;
        bool all = true;
        for (int j = 0; j < n && all; ++j) {
            if (!(mask >> j & 1)) continue;
            if (lanes[j].state == RETURNED)
                return stop("<%x>: the mask %08x names lane %d, which has returned", at_line(f.line), f.mask, j);
            all = lanes[j].state == f.state && lanes[j].mask == f.mask && lanes[j].line == f.line;
        }
        if (!all) continue;
        void* payload[32] = {};
        for (int j = 0; j < n; ++j)
            if (mask >> j & 1) payload[j] = lanes[j].payload, lanes[j].state = READY;
        if (f.state == AT_WARP_OPERATION) {
            if (f.mask == 0xffffffffu && n < 32) return stop("<%x>: a full mask in a warp of only %d lanes", at_line(f.line), n);
            f.operation(payload, mask);
        } else {
            ++warp_epoch[f.index / 32];
        }
        *opened = true;
    }
    return true;
}

static bool run_block(int n, std::mt19937* rng) {
    std::vector<int> order(n);
    std::iota(order.begin(), order.end(), 0);
    for (;;) {
        if (rng) std::shuffle(order.begin(), order.end(), *rng);
        for (int i : order) {
            if (fibres[i].state != READY) continue;
            enter(fibres[i]);
            if (message[0]) return false;
        }
        bool opened = false;
        for (int w = 0; w < n; w += 32)
            if (!release_warp(&fibres[w], std::min(32, n - w), &opened)) return false;
        if (opened) continue;

        // No fibre is ready: all have returned, or all wait at a __syncthreads, or the kernel is wrong.
        int returned = 0, at_barrier = 0;
        const Fibre* waiting = nullptr;
        for (int i = 0; i < n; ++i) {
            returned += fibres[i].state == RETURNED;
            at_barrier += fibres[i].state == AT_BARRIER;
            if (fibres[i].state != RETURNED && !waiting) waiting = &fibres[i];
        }
        if (returned == n) return true;
        const uint3 t = waiting->thread;
        if (at_barrier < n)
            return stop("<%x>: thread (%u,%u,%u) waits here forever: %d of the block's %d threads have returned and %d wait elsewhere",
                        at_line(waiting->line), t.x, t.y, t.z, returned, n, n - returned - at_barrier);
        for (int i = 0; i < n; ++i)
            if (fibres[i].line != waiting->line)
                return stop("threads of a block wait at different __syncthreads, <%x> and <%x>", at_line(waiting->line), at_line(fibres[i].line));
        ++block_epoch;
        for (int i = 0; i < n; ++i) fibres[i].state = READY;
    }
}

static void prepare_fibres(int n, const unsigned* block) {
    if ((int)fibres.size() < n) fibres.resize(n);
    for (int i = 0; i < n; ++i) {
        Fibre& f = fibres[i];
        f.index = i;
        f.thread = {i % block[0], i / block[0] % block[1], i / (block[0] * block[1])};
        f.state = READY;
        if (!f.memory) {
            f.memory = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            mprotect(f.memory, GUARD, PROT_NONE);
        }
        if (!f.stack) f.stack = new_stack(f.memory + STACK, fibre_body);
    }
}

static void watch(const Argument* arguments, int n);   // checker.inc
static void forget_shared(), forget_copies(int n);
static void stop_watching();

// Runs a kernel over the whole grid. seed: shuffles threads and blocks; 0 keeps them in order. Returns 0, or 1 and a
// message in `error`.
extern "C" __attribute__((visibility("default"))) int emulator_launch(
    void (*entry)(void**), void** arguments, const unsigned* grid, const unsigned* block, size_t dynamic_bytes,
    const Argument* arrays, int n_arrays, int checked, unsigned seed, char* error, size_t error_bytes) {
    const int n = block[0] * block[1] * block[2], blocks = grid[0] * grid[1] * grid[2];
    kernel = entry;
    kernel_arguments = arguments;
    message[0] = 0;
    place.grid_size = {grid[0], grid[1], grid[2]};
    place.block_size = {block[0], block[1], block[2]};
    prepare_fibres(n, block);
    dynamic.resize((dynamic_bytes + 15) / 16 + 1);
    const size_t static_bytes = __start_emulated_shared ? __stop_emulated_shared - __start_emulated_shared : 0;
    if (checked) watch(arrays, n_arrays);

    std::mt19937 rng(seed);
    std::vector<int> order(blocks);
    std::iota(order.begin(), order.end(), 0);
    if (seed) std::shuffle(order.begin(), order.end(), rng);
    for (int b : order) {
        block_number = b;
        place.block = {b % grid[0], b / grid[0] % grid[1], b / (grid[0] * grid[1])};
        block_epoch = 1;
        warp_epoch.assign((n + 31) / 32, 1);
        memset(__start_emulated_shared, 0xff, static_bytes);  // NaN, since a GPU's shared memory starts with arbitrary bits
        memset((void*)dynamic.data(), 0xff, dynamic_bytes);
        forget_shared();
        forget_copies(n);
        for (int i = 0; i < n; ++i) fibres[i].state = READY;
        if (run_block(n, seed ? &rng : nullptr)) continue;
        for (Fibre& f : fibres) f.stack = nullptr;  // stopped inside a kernel: the next launch makes new stacks
        stop_watching();
        snprintf(error, error_bytes, "%s", message);
        return 1;
    }
    stop_watching();
    return 0;
}

#include "checker.inc"
#include "copies.inc"
}  // namespace emulator
