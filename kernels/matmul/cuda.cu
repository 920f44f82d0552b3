// Matrix products on a GPU, as a ladder: every rung keeps the product and changes how the numbers reach the arithmetic.
//
//   rung                      what it adds                                            reads of global memory for one multiply-add
//   matmul_naive              a thread an element                                     2, scattered over the rows
//   matmul_coalesced          neighbouring threads take neighbouring columns          2, in whole cache lines
//   matmul_shared             32 × 32 tiles in shared memory                          2 / 32
//   matmul_registers_1d       8 results a thread: one read of shared memory serves 8  2 / 64
//   matmul_registers_2d       4 × 4 results a thread; all forms and edges             2 / 64
//   matmul_fp32               8 × 16 results, copies in the background                2 / 128
//   matmul_tf32, matmul_bf16  the same tiles through the tensor cores                 2 / 128
//
// The first four compute C = A B, row-major, and are there to be read and measured. From matmul_registers_2d on, a kernel takes
// op(A) op(B) in all four transpose forms, a batch, a share of the sum over k (for products too small to fill the GPU
// otherwise), and an epilogue: bias, GELU, and adding to what is there. FP32 is the default. TF32 keeps 10 bits of each factor's
// mantissa, BF16 keeps 7; both still add in FP32.

extern "C" __global__ void matmul_naive(const float* a, const float* b, float* c, int M, int N, int K) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x, col = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= M || col >= N) return;
    float sum = 0.0f;
    for (int k = 0; k < K; ++k) sum += a[(long long)row * K + k] * b[(long long)k * N + col];
    c[(long long)row * N + col] = sum;
}

// The 32 threads of a warp differ in threadIdx.x. With that along the columns, the warp's reads of b and its writes of c are 128
// neighbouring bytes, one cache line, where the kernel above touched 32 lines; its reads of a are one address for all.
extern "C" __global__ void matmul_coalesced(const float* a, const float* b, float* c, int M, int N, int K) {
    const int row = blockIdx.y * blockDim.y + threadIdx.y, col = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= M || col >= N) return;
    float sum = 0.0f;
    for (int k = 0; k < K; ++k) sum += a[(long long)row * K + k] * b[(long long)k * N + col];
    c[(long long)row * N + col] = sum;
}

// A block computes 32 × 32 results. It fetches 32 × 32 of a and of b, once, and every number is then used 32 times.
extern "C" __global__ void __launch_bounds__(1024) matmul_shared(const float* a, const float* b, float* c, int M, int N, int K) {
    __shared__ float as[32][32], bs[32][32];
    const int tx = threadIdx.x, ty = threadIdx.y, row = blockIdx.y * 32 + ty, col = blockIdx.x * 32 + tx;
    float sum = 0.0f;
    for (int k0 = 0; k0 < K; k0 += 32) {
        as[ty][tx] = row < M && k0 + tx < K ? a[(long long)row * K + k0 + tx] : 0.0f;
        bs[ty][tx] = k0 + ty < K && col < N ? b[(long long)(k0 + ty) * N + col] : 0.0f;
        __syncthreads();  // nobody reads the tile before all of it is there
        for (int k = 0; k < 32; ++k) sum += as[ty][k] * bs[k][tx];
        __syncthreads();  // nobody overwrites it before all have read it
    }
    if (row < M && col < N) c[(long long)row * N + col] = sum;
}

// The kernel above reads two numbers from shared memory for each multiply-add, and that is now the limit. A thread that owns 8
// results of one column reads its b once for all 8: 9 reads for 8 multiply-adds. 64 × 64 results, 512 threads.
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
#pragma unroll
            for (int i = 0; i < 8; ++i) sum[i] += as[ty * 8 + i][k] * right;
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int row = row0 + ty * 8 + i;
        if (row < M && col0 + tx < N) c[(long long)row * N + col0 + tx] = sum[i];
    }
}

// ---- What the full kernels share -----------------------------------------------------------------------------------------
// One operand as a matrix of `rows` outer rows (of A: the M rows; of B: the N columns) by k. Number (r, k) lies at r · pitch + k
// where k is contiguous, at k · pitch + r where it is not. aligned: every pitch-th number is at a multiple of 16 bytes.
struct Operand { const float* data; int rows, pitch, k_contiguous, aligned; };

// What becomes of a finished sum. aligned: quads of a row of c, of the preactivation and of the bias can move as one.
struct Epilogue { const float* bias; float* preactivation; int activation, accumulate, aligned; };

__device__ __forceinline__ float gelu(float x, int tanh_form) {
    if (tanh_form) return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    return 0.5f * x * (1.0f + erff(x * 0.7071067812f));
}

__device__ __forceinline__ float4 load_quad(const float* p, int left, int aligned) {  // `left` numbers remain in the row
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

__device__ __forceinline__ float4 add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// Four finished sums, neighbours in one row of this batch's c.
__device__ __forceinline__ void finish(float* c, float4 sum, int row, int col, int M, int N, const Epilogue& e) {
    if (row >= M || col >= N) return;
    const long long i = ((long long)blockIdx.z * M + row) * N + col;
    if (e.bias) sum = add(sum, load_quad(e.bias + col, N - col, e.aligned));
    if (e.preactivation) store_quad(e.preactivation + i, sum, N - col, e.aligned);
    if (e.activation) {
        const int form = e.activation == 2;
        sum = make_float4(gelu(sum.x, form), gelu(sum.y, form), gelu(sum.z, form), gelu(sum.w, form));
    }
    if (e.accumulate) sum = add(load_quad(c + i, N - col, e.aligned), sum);
    store_quad(c + i, sum, N - col, e.aligned);
}

// blockIdx.z counts shares of k within batches. Moves the operands to this block's batch and gives this block's share of k. With
// more than one share c is a workspace of (shares, M, N) partial products, which matmul_add_shares adds up.
__device__ __forceinline__ void choose_batch(const float** a, const float** b, int K, long long stride_a, long long stride_b, int shares,
                                             int* k_begin, int* k_end) {
    const int batch = blockIdx.z / shares, share = blockIdx.z % shares;
    const int length = ((K + shares - 1) / shares + 31) / 32 * 32;  // whole slabs, so that every share starts aligned
    *a += batch * stride_a;
    *b += batch * stride_b;
    *k_begin = min(K, share * length);
    *k_end = min(K, *k_begin + length);
}

// out (+)= Σ over shares, then the epilogue. Fixed order, so that the same inputs give the same bits.
extern "C" __global__ void matmul_add_shares(const float* shares, float* c, int n, int M, int N, const float* bias,
                                             float* preactivation, int activation, int accumulate, int aligned_c) {
    const int col = 4 * (blockIdx.x * blockDim.x + threadIdx.x), row = blockIdx.y;
    if (col >= N) return;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int s = 0; s < n; ++s) sum = add(sum, load_quad(shares + ((long long)s * M + row) * N + col, N - col, N % 4 == 0));
    const Epilogue e = {bias, preactivation, activation, accumulate, aligned_c};
    finish(c, sum, row, col, M, N, e);
}

// out[s][c] = Σ of column c over strip s of the rows; 32 columns to a block of 32 × 32 threads. Called a second time, on the strips,
// it finishes the sum: the gradient of a bias.
extern "C" __global__ void column_sums(const float* x, float* out, int rows, int columns, int rows_of_strip, int accumulate) {
    __shared__ float of_thread[32][33];  // 33: so that a column of it lies in 32 different memory banks
    const int c = blockIdx.x * 32 + threadIdx.x, begin = blockIdx.y * rows_of_strip, end = min(rows, begin + rows_of_strip);
    float sum = 0.0f;
    if (c < columns)
        for (int r = begin + threadIdx.y; r < end; r += 32) sum += x[(long long)r * columns + c];
    of_thread[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    const int column = blockIdx.x * 32 + threadIdx.y;  // now a warp to a column
    sum = of_thread[threadIdx.x][threadIdx.y];
    for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
    if (threadIdx.x > 0 || column >= columns) return;
    float* target = out + (long long)blockIdx.y * columns + column;
    *target = accumulate ? *target + sum : sum;
}

// ---- 4 × 4 results a thread ----------------------------------------------------------------------------------------------
// 64 × 64 results, 256 threads, k in slabs of 16. Per k a thread reads 4 + 4 numbers and makes 16 multiply-adds of them: half a
// read each. Both operands are stored k first, so that whatever form they came in, the inner loop is the same.
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
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // neighbouring threads along whichever axis is contiguous in memory
            const int f = t + 256 * i;
            const int ka = transpose_a ? f / 64 : f % 16, ra = transpose_a ? f % 64 : f / 16;
            const int kb = transpose_b ? f % 16 : f / 64, rb = transpose_b ? f / 16 : f % 64;
            const int row = row0 + ra, col = col0 + rb;
            as[ka][ra] = row < M && k0 + ka < k_end ? a[transpose_a ? (long long)(k0 + ka) * pitch_a + row : (long long)row * pitch_a + k0 + ka] : 0.0f;
            bs[kb][rb] = col < N && k0 + kb < k_end ? b[transpose_b ? (long long)col * pitch_b + k0 + kb : (long long)(k0 + kb) * pitch_b + col] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 16; ++k) {
            const float4 left = *(const float4*)&as[k][ty * 4], right = *(const float4*)&bs[k][tx * 4];
            const float l[4] = {left.x, left.y, left.z, left.w}, r[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sum[i][j] += l[i] * r[j];
        }
        __syncthreads();
    }
    const Epilogue e = {bias, preactivation, activation, accumulate, aligned_c};
#pragma unroll
    for (int i = 0; i < 4; ++i)
        finish(c, make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]), row0 + ty * 4 + i, col0 + tx * 4, M, N, e);
}

// ---- Copies in the background ---------------------------------------------------------------------------------------------
// From sm_80 on a thread can order a copy from global to shared memory and go on; no register holds the number on its way. Copies
// are committed in groups, and a thread can wait until all but its newest groups have arrived. kernels/emulator/copies.inc tells
// what may go wrong. Older GPUs copy at once. `there` of the 4 or 16 bytes are read; the others become zeros.
__device__ __forceinline__ void copy_in_background(float* to, const float* from, int bytes, int there) {
#ifndef __CUDACC__
    emulator::copy_async(__LINE__, to, from, bytes, there);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const unsigned at = (unsigned)__cvta_generic_to_shared(to);
    if (bytes == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(there) : "memory");
    else asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(from), "r"(there) : "memory");
#else
    if (bytes == 16 && there == 16) *(float4*)to = *(const float4*)from;
    else
        for (int i = 0; i < bytes / 4; ++i) to[i] = 4 * i < there ? from[i] : 0.0f;
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
__device__ __forceinline__ void wait_for_copies(int all) {  // all of this thread's, or all but the newest STAGES − 2 groups
#ifndef __CUDACC__
    emulator::wait_for_copies(all ? 0 : STAGES - 2);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if (all) asm volatile("cp.async.wait_all;" ::: "memory");
    else asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
#endif
}

// ---- The fast kernels: one pipeline, three kinds of arithmetic -------------------------------------------------------------
// A block of 4 warps computes 128 × 128 results, a warp 64 × 64, a thread 128 of them, all in registers. The sum over k goes slab by
// slab: 8 k's of FP32, 16 of the others. Slabs lie in a ring of STAGES places in shared memory:
//
//     place 0   being multiplied, one step at a time: while a step's numbers are multiplied, the next step's are read from
//               shared memory into another set of registers (Fragments)
//     place 1   arrived, or about to
//     place 2   being filled by copies in the background
//
// and after each slab the places change their parts. The copies of a slab are ordered two slabs before it is needed, some
// thousand multiply-adds of every thread: longer than global memory takes to answer. One barrier a slab does for both dangers:
// behind it everyone's copies of the next slab are there to read, and nobody still reads the place that is filled next.
// Slabs past the end of k are copied too, as zeros: so the pipeline needs no special case for running empty.
//
// `kind`, and for the tensor cores which of the operands has contiguous k's, are constants wherever these functions are called: the
// compiler makes a loop for each, with nothing left to choose in it.
enum Kind { FP32, TF32, BF16 };

// Where number (r, k) of an operand's slab lies. Shared memory has 32 banks of 4 bytes; what a warp reads or writes at once should
// be spread over all of them.
//   FP32: k first. A row has 128 + 4 numbers, so that 8 k's by 4 rows, which a warp copies at once where k is contiguous in global
//         memory, fall into 32 banks.
//   Tensor cores, k contiguous: a row of 16 k's, 4 quads, after another, quads of a row exchanged: 4 rows' halves fill all banks.
//   Tensor cores, rows contiguous: k first, rows exchanged by eights: the 4 k's by 8 rows of one read fall into 32 banks.
__device__ __forceinline__ int place(int kind, int k_contiguous, int r, int k) {
    if (kind == FP32) return k * 132 + r;
    if (k_contiguous) return r * 16 + ((k >> 2) ^ (r & 2) ^ (r >> 2 & 1)) * 4 + (k & 3);
    return k * 128 + (r & ~31) + ((r & 31) ^ ((k >> 1 & 3) * 8));
}

// Where this thread begins to copy: number (or quad) (r, k) of every slab; it lies at `from` in the next slab to copy, and goes to
// place `to`. Four numbers go at a time where they are neighbours here and there, else one by one; neighbouring threads take
// what is neighbours in global memory.
struct Walk { const float* from; int r, k, to; };

__device__ __forceinline__ int in_quads(int kind, const Operand& x) { return x.aligned && !(kind == FP32 && x.k_contiguous); }

__device__ __forceinline__ Walk begin_walk(int kind, const Operand& x, int r0, int k0) {
    const int t = threadIdx.x, quads = in_quads(kind, x);
    Walk w;
    if (x.k_contiguous) {
        const int threads = kind == FP32 ? 8 : quads ? 4 : 16;  // that share a row
        w.r = t / threads, w.k = t % threads * (quads ? 4 : 1);
        w.from = x.data + (long long)(r0 + w.r) * x.pitch + k0 + w.k;
    } else {
        w.r = quads ? t % 32 * 4 : t, w.k = quads ? t / 32 : 0;
        w.from = x.data + (long long)(k0 + w.k) * x.pitch + r0 + w.r;
    }
    w.to = place(kind, x.k_contiguous, w.r, w.k);
    return w;
}

// n copies: (r, k), (r + dr, k + dk), …; of them exist those with fewer than `rows` rows and `ks` k's.
__device__ __forceinline__ void copy_some(int kind, const Operand& x, const Walk& w, float* slab, int rows, int ks, int dr, int dk, int n,
                                          int quads) {
    const int bytes = quads ? 16 : 4, exchange = kind == FP32 || x.k_contiguous ? 0 : 8;  // as place() has it
    const int to_next = kind == FP32 ? dr + 132 * dk : x.k_contiguous ? 16 * dr : 128 * dk;
    const long long from_next = (long long)x.pitch * (x.k_contiguous ? dr : dk);
    const float* from = w.from;
    if (rows >= 128 && ks >= (kind == FP32 ? 8 : 16)) {  // all of it exists: nearly always
#pragma unroll
        for (int i = 0; i < n; ++i, from += from_next)
            copy_in_background(slab + (w.to ^ ((i * dk >> 1 & 3) * exchange)) + i * to_next, from, bytes, bytes);
        return;
    }
#pragma unroll 1
    for (int i = 0; i < n; ++i, from += from_next) {
        const int left = x.k_contiguous ? ks - w.k : rows - w.r;
        const int there = w.r + i * dr < rows && w.k + i * dk < ks ? (quads ? min(4, left) : 1) : 0;
        copy_in_background(slab + (w.to ^ ((i * dk >> 1 & 3) * exchange)) + i * to_next, there ? from : x.data, bytes, 4 * there);
    }
}

// The next slab of one operand, of which `rows` rows and `ks` k's exist, by all 128 threads.
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

// What a thread needs of both operands for one step.
//   FP32, a step is one k: the numbers of 8 rows and 16 columns. Lanes 2 i and 2 i + 1 share rows, lanes j and j + 2 columns: then
//   shared memory answers a warp's 16-byte reads in two turns, not four.
//   Tensor cores, a step is 8 k's: k = 2q and 2q + 1 of rows (and columns) g, g + 8, g + 16, …, where g = lane / 4, q = lane % 4.
struct Fragments { float a[16], b[16]; };

__device__ __forceinline__ void load_tensor_fragments(const float* slab, int k_contiguous, int step, float* x) {
    const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
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
#pragma unroll
    for (int i = 0; i < 2; ++i) *(float4*)&f->a[4 * i] = *(const float4*)(as + 32 * i);
#pragma unroll
    for (int j = 0; j < 4; ++j) *(float4*)&f->b[4 * j] = *(const float4*)(bs + 16 * j);
}

// One tensor-core instruction, mma.sync: D (16 × 8) += A (16 × 8) B (8 × 8), spread over the registers of the 32 lanes. With g and q
// as above a lane holds numbers (g, q), (g + 8, q), (g, q + 4), (g + 8, q + 4) of A, (q, g), (q + 4, g) of B, and the results (g, 2q),
// (g, 2q + 1), (g + 8, 2q), (g + 8, 2q + 1). Which k is called q and which q + 4 does not matter as long as A and B agree, since the
// instruction sums over them: here k = 2q is called q, and 2q + 1 is called q + 4, so that one read fetches both. In BF16 two
// numbers lie in one register, k = 2q and 2q + 1 by the instruction's own order.
__device__ __forceinline__ void tensor_core(float* d, const unsigned* a, const unsigned* b, int bf16) {
#ifndef __CUDACC__
    emulator::tensor_core(__LINE__, d, a, b, bf16);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if (bf16)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    else
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();  // before sm_80 there are neither TF32 nor BF16 tensor cores: the launcher refuses (require_tensor_cores)
#endif
}

__device__ __forceinline__ unsigned word_tf32(float x) {  // to the nearest of TF32's 19 bits: the tensor core ignores the other 13
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    unsigned u;
    asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(u) : "f"(x));  // one instruction, from sm_90 on
    return u;
#else
    return __float_as_uint(x) + (fabsf(x) < __int_as_float(0x7f800000) ? 0x1000u : 0u);  // infinity and NaN stay what they are
#endif
}

__device__ __forceinline__ unsigned word_bf16(float low, float high) {  // two numbers, rounded to nearest, ties to even
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
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int j = 0; j < 16; ++j) sum[16 * i + j] += f.a[i] * f.b[j];
        return;
    }
    unsigned b[8][2];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        b[j][0] = kind == BF16 ? word_bf16(f.b[2 * j], f.b[2 * j + 1]) : word_tf32(f.b[2 * j]);
        b[j][1] = kind == BF16 ? 0 : word_tf32(f.b[2 * j + 1]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // rows g and g + 8 of 16
        const float *x = &f.a[4 * i], *y = x + 2;
        unsigned a[4] = {0, 0, 0, 0};
        if (kind == BF16) a[0] = word_bf16(x[0], x[1]), a[1] = word_bf16(y[0], y[1]);
        else a[0] = word_tf32(x[0]), a[1] = word_tf32(y[0]), a[2] = word_tf32(x[1]), a[3] = word_tf32(y[1]);
#pragma unroll
        for (int j = 0; j < 8; ++j) tensor_core(sum + 32 * i + 4 * j, a, b[j], kind == BF16);
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
        const int ks = k_end - k - (STAGES - 1) * depth;  // that are still to be copied
        copy_slab(kind, left, &walk_a, shared + 2 * filling * size, left.rows - row0, ks);
        copy_slab(kind, right, &walk_b, shared + (2 * filling + 1) * size, right.rows - col0, ks);
        commit_copies();
        filling = filling == STAGES - 1 ? 0 : filling + 1;
#pragma unroll
        for (int step = 0; step < steps; ++step) {
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

// A thread's sums lie scattered. Through shared memory each warp brings 8 rows of 64 results at a time into order; 16 threads then
// write 64 neighbours.
__device__ __forceinline__ void finish_all(int kind, float* shared, float* c, const float* sum, int M, int N, const Epilogue& e) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pitch = 64 + 4;
    const int row0 = blockIdx.x * 128 + warp / 2 * 64, col0 = blockIdx.y * 128 + warp % 2 * 64;
    float* piece = shared + warp * 8 * pitch;
    wait_for_copies(1);  // the slabs past the end still go where the results are about to be
    __syncthreads();     // and nobody reads fragments any more
#pragma unroll
    for (int p = 0; p < 8; ++p) {
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 8; ++j) {
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

#ifdef __CUDACC__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) float name[]
#endif

extern "C" __global__ void __launch_bounds__(128, 2)
matmul_fp32(const float* a, const float* b, float* c, int M, int N, int K, int pitch_a, int pitch_b, int transpose_a, int transpose_b,
            long long stride_a, long long stride_b, int shares, const float* bias, float* preactivation, int activation,
            int accumulate, int aligned_a, int aligned_b, int aligned_c) {
    DYNAMIC_SHARED(shared);
    int k_begin, k_end;
    choose_batch(&a, &b, K, stride_a, stride_b, shares, &k_begin, &k_end);
    const Operand left = {a, M, pitch_a, !transpose_a, aligned_a}, right = {b, N, pitch_b, transpose_b, aligned_b};
    const Epilogue e = {bias, preactivation, activation, accumulate, aligned_c};
    float sum[128] = {};
    add_slabs(FP32, left, right, shared, k_begin, k_end, sum);
    finish_all(FP32, shared, c, sum, M, N, e);
}

// For the tensor cores the loop is compiled for each of the four ways in which the operands can lie.
__device__ __forceinline__ void add_slabs_by_form(int kind, Operand left, Operand right, float* shared, int k_begin, int k_end, float* sum) {
    if (left.k_contiguous && right.k_contiguous) {
        left.k_contiguous = 1, right.k_contiguous = 1;
        add_slabs(kind, left, right, shared, k_begin, k_end, sum);
    } else if (left.k_contiguous) {
        left.k_contiguous = 1, right.k_contiguous = 0;
        add_slabs(kind, left, right, shared, k_begin, k_end, sum);
    } else if (right.k_contiguous) {
        left.k_contiguous = 0, right.k_contiguous = 1;
        add_slabs(kind, left, right, shared, k_begin, k_end, sum);
    } else {
        left.k_contiguous = 0, right.k_contiguous = 0;
        add_slabs(kind, left, right, shared, k_begin, k_end, sum);
    }
}

extern "C" __global__ void __launch_bounds__(128, 2)
matmul_tf32(const float* a, const float* b, float* c, int M, int N, int K, int pitch_a, int pitch_b, int transpose_a, int transpose_b,
            long long stride_a, long long stride_b, int shares, const float* bias, float* preactivation, int activation,
            int accumulate, int aligned_a, int aligned_b, int aligned_c) {
    DYNAMIC_SHARED(shared);
    int k_begin, k_end;
    choose_batch(&a, &b, K, stride_a, stride_b, shares, &k_begin, &k_end);
    const Operand left = {a, M, pitch_a, !transpose_a, aligned_a}, right = {b, N, pitch_b, transpose_b, aligned_b};
    const Epilogue e = {bias, preactivation, activation, accumulate, aligned_c};
    float sum[128] = {};
    add_slabs_by_form(TF32, left, right, shared, k_begin, k_end, sum);
    finish_all(TF32, shared, c, sum, M, N, e);
}

extern "C" __global__ void __launch_bounds__(128, 2)
matmul_bf16(const float* a, const float* b, float* c, int M, int N, int K, int pitch_a, int pitch_b, int transpose_a, int transpose_b,
            long long stride_a, long long stride_b, int shares, const float* bias, float* preactivation, int activation,
            int accumulate, int aligned_a, int aligned_b, int aligned_c) {
    DYNAMIC_SHARED(shared);
    int k_begin, k_end;
    choose_batch(&a, &b, K, stride_a, stride_b, shares, &k_begin, &k_end);
    const Operand left = {a, M, pitch_a, !transpose_a, aligned_a}, right = {b, N, pitch_b, transpose_b, aligned_b};
    const Epilogue e = {bias, preactivation, activation, accumulate, aligned_c};
    float sum[128] = {};
    add_slabs_by_form(BF16, left, right, shared, k_begin, k_end, sum);
    finish_all(BF16, shared, c, sum, M, N, e);
}
