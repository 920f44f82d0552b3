// Matrix products as a ladder: every rung computes the same product and changes how the numbers reach the arithmetic.
//
//   kernel                    what is new                                             reads of global memory per multiply-add
//   matmul_naive              a thread computes an element                            2, scattered over the rows
//   matmul_coalesced          neighbouring threads take neighbouring columns          2, in whole cache lines
//   matmul_shared             32 × 32 tiles in shared memory                          2 / 32
//   matmul_registers_1d       8 results a thread: one read of shared memory serves 8  2 / 64
//   matmul_registers_2d       4 × 4 results a thread; all forms and edges             2 / 64
//   matmul_fp32               8 × 16 results a thread, asynchronous copies            2 / 128
//   matmul_tf32, matmul_bf16  the same tiles on the tensor cores                      2 / 128
//
// The first four compute C = A B, row-major, for reading and measuring. From matmul_registers_2d on, a kernel takes all four
// transpose forms, a batch, an epilogue (bias, GELU, adding to c), and shares of the sum over k, with which a small product fills
// the GPU. FP32 is the default. TF32 keeps 10 bits of each factor's mantissa, BF16 keeps 7; both add up in FP32.

#include "../common.cuh"

// Thread (x, y) of block (i, j) computes row 32 i + x, column 8 j + y.
extern "C" __global__ void matmul_naive(const float* a, const float* b, float* c, int M, int N, int K) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x, col = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= M || col >= N) return;
    float sum = 0.0f;
    for (int k = 0; k < K; ++k) sum += a[(long long)row * K + k] * b[(long long)k * N + col];
    c[(long long)row * N + col] = sum;
}

// The 32 threads of a warp differ in threadIdx.x, which counts columns here. So the warp reads 128 neighbouring bytes of b, a
// single cache line, and writes one line of c; all its threads read the same number of a. matmul_naive touches 32 lines.
extern "C" __global__ void matmul_coalesced(const float* a, const float* b, float* c, int M, int N, int K) {
    const int row = blockIdx.y * blockDim.y + threadIdx.y, col = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= M || col >= N) return;
    float sum = 0.0f;
    for (int k = 0; k < K; ++k) sum += a[(long long)row * K + k] * b[(long long)k * N + col];
    c[(long long)row * N + col] = sum;
}

// A block computes 32 × 32 results, one a thread. It fetches a 32 × 32 tile of a and of b once, and uses every number 32 times.
extern "C" __global__ void __launch_bounds__(1024) matmul_shared(const float* a, const float* b, float* c, int M, int N, int K) {
    __shared__ float as[32][32], bs[32][32];
    const int tx = threadIdx.x, ty = threadIdx.y, row = blockIdx.y * 32 + ty, col = blockIdx.x * 32 + tx;
    float sum = 0.0f;
    for (int k0 = 0; k0 < K; k0 += 32) {
        as[ty][tx] = row < M && k0 + tx < K ? a[(long long)row * K + k0 + tx] : 0.0f;
        bs[ty][tx] = k0 + ty < K && col < N ? b[(long long)(k0 + ty) * N + col] : 0.0f;
        __syncthreads();  // every thread has written its part of the tiles
        for (int k = 0; k < 32; ++k) sum += as[ty][k] * bs[k][tx];
        __syncthreads();  // every thread has read the tiles
    }
    if (row < M && col < N) c[(long long)row * N + col] = sum;
}

// matmul_shared is limited by two reads of shared memory for each multiply-add. Here a thread owns 8 results of a column and
// reads its number of b once for all 8: 9 reads for 8 multiply-adds. A block of 512 threads computes 64 × 64 results.
extern "C" __global__ void __launch_bounds__(512) matmul_registers_1d(const float* a, const float* b, float* c, int M, int N, int K) {
    __shared__ float as[64][8], bs[8][64];
    const int t = threadIdx.x, tx = t % 64, ty = t / 64, row0 = blockIdx.y * 64, col0 = blockIdx.x * 64;
    float sum[8] = {};
    for (int k0 = 0; k0 < K; k0 += 8) {
        const int row = row0 + t / 8, col = col0 + tx;
        as[t / 8][t % 8] = row < M && k0 + t % 8 < K ? a[(long long)row * K + k0 + t % 8] : 0.0f;
        bs[ty][tx] = k0 + ty < K && col < N ? b[(long long)(k0 + ty) * N + col] : 0.0f;
        __syncthreads();
        for (int k = 0; k < 8; ++k) {
            const float right = bs[k][tx];
            UNROLL for (int i = 0; i < 8; ++i) sum[i] += as[ty * 8 + i][k] * right;
        }
        __syncthreads();
    }
    UNROLL for (int i = 0; i < 8; ++i) {
        const int row = row0 + ty * 8 + i;
        if (row < M && col0 + tx < N) c[(long long)row * N + col0 + tx] = sum[i];
    }
}

// ---- What the full kernels share -----------------------------------------------------------------------------------------
// A factor: `rows` rows of K numbers, which are the M rows of A or the N columns of B. Number (r, k) lies at r · pitch + k if
// k_contiguous, else at k · pitch + r. aligned: every row in memory starts at a multiple of 16 bytes.
struct Operand { const float* data; int rows, pitch, k_contiguous, aligned; };

// The epilogue of a finished sum. aligned: rows of c, preactivation and bias start at multiples of 16 bytes.
struct Epilogue { const float* bias; float* preactivation; int activation, accumulate, aligned; };

// load_quad and store_quad are shorter than load4 and store4, since every kernel contains them many times. `left` ≥ 1 numbers
// remain in the row; `aligned` also promises that rows consist of whole quads.
__device__ __forceinline__ float4 load_quad(const float* p, int left, int aligned) {
    if (aligned) return *(const float4*)p;
    return make_float4(p[0], left > 1 ? p[1] : 0.0f, left > 2 ? p[2] : 0.0f, left > 3 ? p[3] : 0.0f);
}

__device__ __forceinline__ void store_quad(float* p, float4 v, int left, int aligned) {
    if (aligned) {
        *(float4*)p = v;
        return;
    }
    p[0] = v.x;
    if (left > 1) p[1] = v.y;
    if (left > 2) p[2] = v.z;
    if (left > 3) p[3] = v.w;
}

// Applies the epilogue to four finished sums, neighbours in a row, and writes them to this block's batch row of c.
__device__ __forceinline__ void finish(float* c, float4 sum, int row, int col, int M, int N, const Epilogue& e) {
    if (row >= M || col >= N) return;
    const long long i = ((long long)blockIdx.z * M + row) * N + col;
    if (e.bias) sum = sum + load_quad(e.bias + col, N - col, e.aligned);
    if (e.preactivation) store_quad(e.preactivation + i, sum, N - col, e.aligned);
    if (e.activation) {
        const int form = e.activation == 2;
        sum = make_float4(gelu(sum.x, form), gelu(sum.y, form), gelu(sum.z, form), gelu(sum.w, form));
    }
    if (e.accumulate) sum = load_quad(c + i, N - col, e.aligned) + sum;
    store_quad(c + i, sum, N - col, e.aligned);
}

// blockIdx.z counts shares of k within batch rows. Move a and b to this block's batch row, and set the block's share of k. With
// more than one share, c is a workspace of (shares, M, N) partial products, which matmul_add_shares adds up.
__device__ __forceinline__ void choose_batch(const float** a, const float** b, int K, long long stride_a, long long stride_b, int shares,
                                             int* k_begin, int* k_end) {
    const int batch = blockIdx.z / shares, share = blockIdx.z % shares;
    const int length = ((K + shares - 1) / shares + 31) / 32 * 32;  // whole slabs, so every share starts aligned
    *a += batch * stride_a;
    *b += batch * stride_b;
    *k_begin = min(K, share * length);
    *k_end = min(K, *k_begin + length);
}

// c (+)= Σ over n shares in a fixed order, then the epilogue. A thread adds up a quad of a row.
extern "C" __global__ void matmul_add_shares(const float* shares, float* c, int n, int M, int N, const float* bias,
                                             float* preactivation, int activation, int accumulate, int aligned_c) {
    const int col = 4 * (blockIdx.x * blockDim.x + threadIdx.x), row = blockIdx.y;
    if (col >= N) return;
    float4 sum = quad(0.0f);
    for (int s = 0; s < n; ++s) sum = sum + load_quad(shares + ((long long)s * M + row) * N + col, N - col, N % 4 == 0);
    finish(c, sum, row, col, M, N, {bias, preactivation, activation, accumulate, aligned_c});
}

// out[s][c] (+)= Σ of column c over strip s of the rows; a block of 32 × 32 threads adds up 32 columns. A second launch adds up
// the strips. The total is the gradient of a bias.
extern "C" __global__ void column_sums(const float* x, float* out, int rows, int columns, int rows_of_strip, int accumulate) {
    __shared__ float tile[32][33];
    const int c = blockIdx.x * 32 + threadIdx.x, begin = blockIdx.y * rows_of_strip, end = min(rows, begin + rows_of_strip);
    float sum = 0.0f;
    if (c < columns)
        for (int r = begin + threadIdx.y; r < end; r += 32) sum += x[(long long)r * columns + c];
    sum = column_sum(tile, sum);
    const int column = blockIdx.x * 32 + threadIdx.y;
    if (threadIdx.x > 0 || column >= columns) return;
    float* target = out + (long long)blockIdx.y * columns + column;
    *target = accumulate ? *target + sum : sum;
}

// ---- 4 × 4 results a thread ----------------------------------------------------------------------------------------------
// A block of 256 threads computes 64 × 64 results, over k in slabs of 16. Per k a thread reads 4 + 4 numbers for 16
// multiply-adds: half a read each. Shared memory holds both factors k first, so the inner loop is the same for all four
// transpose forms.
extern "C" __global__ void __launch_bounds__(256)
matmul_registers_2d(const float* a, const float* b, float* c, int M, int N, int K, int pitch_a, int pitch_b, int transpose_a,
                    int transpose_b, long long stride_a, long long stride_b, int shares, const float* bias, float* preactivation,
                    int activation, int accumulate, int aligned_a, int aligned_b, int aligned_c) {
    __shared__ float as[16][64 + 4], bs[16][64 + 4];
    int k_begin, k_end;
    choose_batch(&a, &b, K, stride_a, stride_b, shares, &k_begin, &k_end);
    const int t = threadIdx.x, tx = t % 16, ty = t / 16, row0 = blockIdx.x * 64, col0 = blockIdx.y * 64;
    float sum[4][4] = {};
    for (int k0 = k_begin; k0 < k_end; k0 += 16) {
        UNROLL for (int i = 0; i < 4; ++i) {  // neighbouring threads follow the axis that is contiguous in memory
            const int f = t + 256 * i;
            const int ka = transpose_a ? f / 64 : f % 16, ra = transpose_a ? f % 64 : f / 16;
            const int kb = transpose_b ? f % 16 : f / 64, rb = transpose_b ? f / 16 : f % 64;
            const int row = row0 + ra, col = col0 + rb;
            as[ka][ra] = row < M && k0 + ka < k_end ? a[transpose_a ? (long long)(k0 + ka) * pitch_a + row : (long long)row * pitch_a + k0 + ka] : 0.0f;
            bs[kb][rb] = col < N && k0 + kb < k_end ? b[transpose_b ? (long long)col * pitch_b + k0 + kb : (long long)(k0 + kb) * pitch_b + col] : 0.0f;
        }
        __syncthreads();
        UNROLL for (int k = 0; k < 16; ++k) {
            const float4 left = *(const float4*)&as[k][ty * 4], right = *(const float4*)&bs[k][tx * 4];
            const float l[4] = {left.x, left.y, left.z, left.w}, r[4] = {right.x, right.y, right.z, right.w};
            UNROLL for (int i = 0; i < 4; ++i)
                UNROLL for (int j = 0; j < 4; ++j) sum[i][j] += l[i] * r[j];
        }
        __syncthreads();
    }
    const Epilogue e = {bias, preactivation, activation, accumulate, aligned_c};
    UNROLL for (int i = 0; i < 4; ++i)
        finish(c, make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]), row0 + ty * 4 + i, col0 + tx * 4, M, N, e);
}

// ---- Asynchronous copies --------------------------------------------------------------------------------------------------
// From sm_80 on a thread can start a copy from global to shared memory and go on, with no register in between. It commits
// copies in groups, and can wait until all but its newest groups have arrived. kernels/emulator/copies.inc lists the possible
// mistakes. Older GPUs copy at once. The copy reads the first `valid` of its 4 or 16 bytes; the others become zeros.
__device__ __forceinline__ void copy_async(float* to, const float* from, int bytes, int valid) {
#ifndef __CUDACC__
    emulator::copy_async(EMULATOR_LINE, to, from, bytes, valid);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const unsigned at = (unsigned)__cvta_generic_to_shared(to);
    if (bytes == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(valid) : "memory");
    else asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(from), "r"(valid) : "memory");
#else
    if (bytes == 16 && valid == 16) *(float4*)to = *(const float4*)from;
    else
        for (int i = 0; i < bytes / 4; ++i) to[i] = 4 * i < valid ? from[i] : 0.0f;
#endif
}

__device__ __forceinline__ void commit_copies() {
#ifndef __CUDACC__
    emulator::commit_copies();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

#define STAGES 3
__device__ __forceinline__ void wait_for_copies(int all) {  // waits for all this thread's groups, or all but the newest STAGES − 2
#ifndef __CUDACC__
    emulator::wait_for_copies(all ? 0 : STAGES - 2);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if (all) asm volatile("cp.async.wait_all;" ::: "memory");
    else asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
#endif
}

// ---- The fast kernels: one pipeline, three kinds of arithmetic -------------------------------------------------------------
// A block of 4 warps computes 128 × 128 results, a warp 64 × 64, and a thread 128 of them, in registers. The sum over k goes
// slab by slab: 8 k's in FP32, 16 on the tensor cores. Three slabs (STAGES) lie in a ring in shared memory:
//
//     stage 0   in use, step by step: while a thread multiplies the numbers of one step, it reads the next step's numbers from
//               shared memory into another set of registers (Fragments)
//     stage 1   arrived, or about to arrive
//     stage 2   being filled by asynchronous copies
//
// After each slab the stages change roles. The copies of a slab start two slabs before its use. Meanwhile every thread does at
// least 2,000 multiply-adds, which take longer than global memory needs to answer. One barrier per slab prevents both hazards:
// after it, every thread's copies of the next slab can be read, and no thread still reads the stage that is filled next. Slabs
// past the end of k are copied as zeros, so the end of the loop needs no special case.
//
// `kind`, and for the tensor cores the k_contiguous of both factors, are constants at every call: the compiler makes a loop for
// each combination, without branches on them.
enum Kind { FP32, TF32, BF16 };

// The place of number (r, k) in a factor's slab. Shared memory has 32 banks of 4 bytes, and the numbers that a warp reads or
// writes at once should lie in different banks.
//   FP32: k first, in rows of 128 + 4 numbers. A warp that copies contiguous k's writes 8 k's by 4 rows at once, into 32 banks.
//   Tensor cores, k contiguous: rows of 16 k's, whose 4 quads are permuted so that the halves of 4 rows fill all banks.
//   Tensor cores, rows contiguous: k first, with the rows permuted by eights so that a read of 4 k's by 8 rows uses 32 banks.
__device__ __forceinline__ int place(int kind, int k_contiguous, int r, int k) {
    if (kind == FP32) return k * 132 + r;
    if (k_contiguous) return r * 16 + ((k >> 2) ^ (r & 2) ^ (r >> 2 & 1)) * 4 + (k & 3);
    return k * 128 + (r & ~31) + ((r & 31) ^ ((k >> 1 & 3) * 8));
}

// A thread's part of every slab. Its first number (or quad) is (r, k). For the next slab the thread copies that number from
// `from` to place `to`. Copies move quads if four neighbours in global memory are neighbours in the slab too, else single numbers.
// Neighbouring threads copy neighbours in global memory.
struct Walk { const float* from; int r, k, to; };

__device__ __forceinline__ int in_quads(int kind, const Operand& x) { return x.aligned && !(kind == FP32 && x.k_contiguous); }

__device__ __forceinline__ Walk begin_walk(int kind, const Operand& x, int r0, int k0) {
    const int t = threadIdx.x, quads = in_quads(kind, x);
    Walk w;
    if (x.k_contiguous) {
        const int threads = kind == FP32 ? 8 : quads ? 4 : 16;  // in a row
        w.r = t / threads, w.k = t % threads * (quads ? 4 : 1);
        w.from = x.data + (long long)(r0 + w.r) * x.pitch + k0 + w.k;
    } else {
        w.r = quads ? t % 32 * 4 : t, w.k = quads ? t / 32 : 0;
        w.from = x.data + (long long)(k0 + w.k) * x.pitch + r0 + w.r;
    }
    w.to = place(kind, x.k_contiguous, w.r, w.k);
    return w;
}

// Copies n numbers (or quads) (r, k), (r + dr, k + dk), …; numbers beyond `rows` rows and `ks` k's do not exist and become zeros.
__device__ __forceinline__ void copy_some(int kind, const Operand& x, const Walk& w, float* slab, int rows, int ks, int dr, int dk, int n,
                                          int quads) {
    const int bytes = quads ? 16 : 4, permutation = kind == FP32 || x.k_contiguous ? 0 : 8;  // as in place()
    const int to_next = kind == FP32 ? dr + 132 * dk : x.k_contiguous ? 16 * dr : 128 * dk;
    const long long from_next = (long long)x.pitch * (x.k_contiguous ? dr : dk);
    const float* from = w.from;
    if (rows >= 128 && ks >= (kind == FP32 ? 8 : 16)) {  // the usual case: the whole slab exists
        UNROLL for (int i = 0; i < n; ++i, from += from_next)
            copy_async(slab + (w.to ^ ((i * dk >> 1 & 3) * permutation)) + i * to_next, from, bytes, bytes);
        return;
    }
#pragma unroll 1
    for (int i = 0; i < n; ++i, from += from_next) {
        const int left = x.k_contiguous ? ks - w.k : rows - w.r;
        const int valid = w.r + i * dr < rows && w.k + i * dk < ks ? (quads ? min(4, left) : 1) : 0;
        copy_async(slab + (w.to ^ ((i * dk >> 1 & 3) * permutation)) + i * to_next, valid ? from : x.data, bytes, 4 * valid);
    }
}

// All 128 threads copy the next slab of a factor, in which `rows` rows and `ks` k's exist.
__device__ __forceinline__ void copy_slab(int kind, const Operand& x, Walk* w, float* slab, int rows, int ks) {
    const int depth = kind == FP32 ? 8 : 16;
    if (x.k_contiguous) {
        if (kind == FP32) copy_some(kind, x, *w, slab, rows, ks, 16, 0, 8, 0);
        else if (in_quads(kind, x)) copy_some(kind, x, *w, slab, rows, ks, 32, 0, 4, 1);
        else copy_some(kind, x, *w, slab, rows, ks, 8, 0, 16, 0);
        w->from += depth;
    } else {
        if (in_quads(kind, x)) copy_some(kind, x, *w, slab, rows, ks, 0, 4, depth / 4, 1);
        else copy_some(kind, x, *w, slab, rows, ks, 0, 1, depth, 0);
        w->from += (long long)depth * x.pitch;
    }
}

// The numbers of both factors that a thread multiplies in one step.
//   FP32: a step is one k, with 8 rows and 16 columns. Lanes 2 i and 2 i + 1 share rows. In each half of the warp, lanes j and
//   j + 2 share columns. So shared memory answers a warp's 16-byte reads in two turns instead of four.
//   Tensor cores: a step is 8 k's. A lane has k = 2q and 2q + 1 of rows (and columns) g, g + 8, g + 16, …, with g = lane / 4 and
//   q = lane % 4.
struct Fragments { float a[16], b[16]; };

__device__ __forceinline__ void load_tensor_fragments(const float* slab, int k_contiguous, int step, float* x) {
    const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
    UNROLL for (int i = 0; i < 8; ++i) {
        if (k_contiguous) {
            const float2 two = *(const float2*)(slab + place(TF32, 1, 8 * i + g, 8 * step + 2 * q));
            x[2 * i] = two.x;
            x[2 * i + 1] = two.y;
        } else {
            x[2 * i] = slab[place(TF32, 0, 8 * i + g, 8 * step + 2 * q)];
            x[2 * i + 1] = slab[place(TF32, 0, 8 * i + g, 8 * step + 2 * q + 1)];
        }
    }
}

__device__ __forceinline__ void load_fragments(int kind, const float* as, const float* bs, int a_along_k, int b_along_k, int step,
                                               Fragments* f) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = warp / 2 * 64, col = warp % 2 * 64;
    if (kind != FP32) {
        load_tensor_fragments(as + row * (a_along_k ? 16 : 1), a_along_k, step, f->a);
        load_tensor_fragments(bs + col * (b_along_k ? 16 : 1), b_along_k, step, f->b);
        return;
    }
    as += step * 132 + row + lane / 2 % 8 * 4;
    bs += step * 132 + col + (lane % 2 + lane / 16 * 2) * 4;
    UNROLL for (int i = 0; i < 2; ++i) *(float4*)&f->a[4 * i] = *(const float4*)(as + 32 * i);
    UNROLL for (int j = 0; j < 4; ++j) *(float4*)&f->b[4 * j] = *(const float4*)(bs + 16 * j);
}

// Rounds two numbers to BF16, to nearest with ties to even, and puts both in one register.
__device__ __forceinline__ unsigned to_bf16(float low, float high) {
#ifndef __CUDACC__
    unsigned l = __float_as_uint(low), h = __float_as_uint(high);
    l = low == low ? (l + 0x7fffu + (l >> 16 & 1)) >> 16 : 0x7fffu;
    h = high == high ? (h + 0x7fffu + (h >> 16 & 1)) >> 16 : 0x7fffu;
    return h << 16 | l;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned u;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
    return u;
#else
    return 0;
#endif
}

// sum += the outer products of one step.
__device__ __forceinline__ void multiply(int kind, const Fragments& f, float* sum) {
    if (kind == FP32) {
        UNROLL for (int i = 0; i < 8; ++i)
            UNROLL for (int j = 0; j < 16; ++j) sum[16 * i + j] += f.a[i] * f.b[j];
        return;
    }
    unsigned b[8][2];
    UNROLL for (int j = 0; j < 8; ++j) {
        b[j][0] = kind == BF16 ? to_bf16(f.b[2 * j], f.b[2 * j + 1]) : to_tf32(f.b[2 * j]);
        b[j][1] = kind == BF16 ? 0 : to_tf32(f.b[2 * j + 1]);
    }
    UNROLL for (int i = 0; i < 4; ++i) {  // rows g and g + 8 of 16
        const float *x = &f.a[4 * i], *y = x + 2;
        unsigned a[4] = {0, 0, 0, 0};
        if (kind == BF16) a[0] = to_bf16(x[0], x[1]), a[1] = to_bf16(y[0], y[1]);
        else a[0] = to_tf32(x[0]), a[1] = to_tf32(y[0]), a[2] = to_tf32(x[1]), a[3] = to_tf32(y[1]);
        UNROLL for (int j = 0; j < 8; ++j) tensor_core(sum + 32 * i + 4 * j, a, b[j], kind == BF16);
    }
}

// sum += this block's product.
__device__ __forceinline__ void add_slabs(int kind, const Operand& left, const Operand& right, float* shared, int k_begin, int k_end,
                                          float* sum) {
    const int depth = kind == FP32 ? 8 : 16, steps = kind == FP32 ? 8 : 2, size = kind == FP32 ? 8 * 132 : 16 * 128;
    const int row0 = blockIdx.x * 128, col0 = blockIdx.y * 128, kc_a = left.k_contiguous, kc_b = right.k_contiguous;
    Walk walk_a = begin_walk(kind, left, row0, k_begin), walk_b = begin_walk(kind, right, col0, k_begin);
    Fragments f[2];
#pragma unroll 1
    for (int s = 0; s < STAGES - 1; ++s) {
        copy_slab(kind, left, &walk_a, shared + 2 * s * size, left.rows - row0, k_end - k_begin - s * depth);
        copy_slab(kind, right, &walk_b, shared + (2 * s + 1) * size, right.rows - col0, k_end - k_begin - s * depth);
        commit_copies();
    }
    wait_for_copies(0);
    __syncthreads();
    load_fragments(kind, shared, shared + size, kc_a, kc_b, 0, &f[0]);
    int here = 0, filling = STAGES - 1;
    for (int k = k_begin; k < k_end; k += depth) {
        const int ks = k_end - k - (STAGES - 1) * depth;  // still to copy
        copy_slab(kind, left, &walk_a, shared + 2 * filling * size, left.rows - row0, ks);
        copy_slab(kind, right, &walk_b, shared + (2 * filling + 1) * size, right.rows - col0, ks);
        commit_copies();
        filling = filling == STAGES - 1 ? 0 : filling + 1;
        UNROLL for (int step = 0; step < steps; ++step) {
            if (step == steps - 1) {
                wait_for_copies(0);
                __syncthreads();
                here = here == STAGES - 1 ? 0 : here + 1;
            }
            const float* slab = shared + 2 * here * size;
            load_fragments(kind, slab, slab + size, kc_a, kc_b, (step + 1) % steps, &f[(step + 1) & 1]);
            multiply(kind, f[step & 1], sum);
        }
    }
}

// Writes the block's results. A thread's sums are scattered, so each warp rearranges 8 rows of 64 results at a time in shared
// memory; then 16 threads write 64 neighbours.
__device__ __forceinline__ void finish_all(int kind, float* shared, float* c, const float* sum, int M, int N, const Epilogue& e) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pitch = 64 + 4;
    const int row0 = blockIdx.x * 128 + warp / 2 * 64, col0 = blockIdx.y * 128 + warp % 2 * 64;
    float* piece = shared + warp * 8 * pitch;
    wait_for_copies(1);  // copies of slabs past the end still write to this memory
    __syncthreads();     // every thread has read its fragments
    UNROLL for (int p = 0; p < 8; ++p) {
        __syncwarp();
        UNROLL for (int j = 0; j < 8; ++j) {
            const int row = kind == FP32 ? lane / 2 % 8 : lane / 4;
            const int col = kind == FP32 ? (lane % 2 + lane / 16 * 2) * 4 + j / 2 * 16 + j % 2 * 2 : 8 * j + lane % 4 * 2;
            const float* two = sum + (kind == FP32 ? 16 * p + 2 * j : 32 * (p / 2) + 4 * j + p % 2 * 2);
            *(float2*)(piece + row * pitch + col) = make_float2(two[0], two[1]);
        }
        __syncwarp();
#pragma unroll 1
        for (int n = lane; n < 128; n += 32) {
            const int r = n / 16, row = kind == FP32 ? 32 * (p / 4) + p % 4 + 4 * r : 8 * p + r;
            finish(c, *(const float4*)(piece + r * pitch + n % 16 * 4), row0 + row, col0 + n % 16 * 4, M, N, e);
        }
    }
}

// add_slabs, compiled for these two orders of the factors in memory.
__device__ __forceinline__ void add_ordered_slabs(int kind, Operand left, int kc_left, Operand right, int kc_right, float* shared,
                                                  int k_begin, int k_end, float* sum) {
    left.k_contiguous = kc_left, right.k_contiguous = kc_right;
    add_slabs(kind, left, right, shared, k_begin, k_end, sum);
}

__device__ __forceinline__ void multiply_block(int kind, Operand left, Operand right, float* c, int K, long long stride_a, long long stride_b,
                                               int shares, const Epilogue& e) {
    DYNAMIC_SHARED(shared);
    int k_begin, k_end;
    choose_batch(&left.data, &right.data, K, stride_a, stride_b, shares, &k_begin, &k_end);
    float sum[128] = {};
    if (kind == FP32) add_slabs(kind, left, right, shared, k_begin, k_end, sum);
    else if (left.k_contiguous && right.k_contiguous) add_ordered_slabs(kind, left, 1, right, 1, shared, k_begin, k_end, sum);
    else if (left.k_contiguous) add_ordered_slabs(kind, left, 1, right, 0, shared, k_begin, k_end, sum);
    else if (right.k_contiguous) add_ordered_slabs(kind, left, 0, right, 1, shared, k_begin, k_end, sum);
    else add_ordered_slabs(kind, left, 0, right, 0, shared, k_begin, k_end, sum);
    finish_all(kind, shared, c, sum, left.rows, right.rows, e);
}

extern "C" __global__ void __launch_bounds__(128, 2)
matmul_fp32(const float* a, const float* b, float* c, int M, int N, int K, int pitch_a, int pitch_b, int transpose_a, int transpose_b,
            long long stride_a, long long stride_b, int shares, const float* bias, float* preactivation, int activation,
            int accumulate, int aligned_a, int aligned_b, int aligned_c) {
    multiply_block(FP32, {a, M, pitch_a, !transpose_a, aligned_a}, {b, N, pitch_b, transpose_b, aligned_b}, c, K, stride_a, stride_b,
                   shares, {bias, preactivation, activation, accumulate, aligned_c});
}

extern "C" __global__ void __launch_bounds__(128, 2)
matmul_tf32(const float* a, const float* b, float* c, int M, int N, int K, int pitch_a, int pitch_b, int transpose_a, int transpose_b,
            long long stride_a, long long stride_b, int shares, const float* bias, float* preactivation, int activation,
            int accumulate, int aligned_a, int aligned_b, int aligned_c) {
    multiply_block(TF32, {a, M, pitch_a, !transpose_a, aligned_a}, {b, N, pitch_b, transpose_b, aligned_b}, c, K, stride_a, stride_b,
                   shares, {bias, preactivation, activation, accumulate, aligned_c});
}

extern "C" __global__ void __launch_bounds__(128, 2)
matmul_bf16(const float* a, const float* b, float* c, int M, int N, int K, int pitch_a, int pitch_b, int transpose_a, int transpose_b,
            long long stride_a, long long stride_b, int shares, const float* bias, float* preactivation, int activation,
            int accumulate, int aligned_a, int aligned_b, int aligned_c) {
    multiply_block(BF16, {a, M, pitch_a, !transpose_a, aligned_a}, {b, N, pitch_b, transpose_b, aligned_b}, c, K, stride_a, stride_b,
                   shares, {bias, preactivation, activation, accumulate, aligned_c});
}
