// Matrix products on a GPU, as a ladder: every rung keeps the product and changes how the numbers reach the arithmetic.
//
//   rung                      what it adds                                            reads of global memory for one multiply-add
//   matmul_naive              a thread an element                                     2, scattered over the rows
//   matmul_coalesced          neighbouring threads take neighbouring columns          2, in whole cache lines
//   matmul_shared             32 × 32 tiles in shared memory                          2 / 32
//   matmul_registers_1d       8 results a thread: one read of shared memory serves 8  2 / 64
//   matmul_registers_2d       4 × 4 results a thread; all forms and edges             2 / 64
//   matmul_fp32               8 × 8 results, 16-byte moves, two buffers in turn       2 / 128
//   matmul_tf32, matmul_bf16  the same tiles through the tensor cores                 2 / 128
//
// The first four compute C = A B, row-major, and are there to be read and measured. From matmul_registers_2d on, a kernel takes
// op(A) op(B) in all four transpose forms, a batch, a share of the sum over k (for products too small to fill the GPU
// otherwise), and an epilogue: bias, GELU, and adding to what is there. FP32 is the default. TF32 keeps 10 bits of each factor's
// mantissa, BF16 keeps 7; both still add in FP32.

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define BLOCKS 2
#else
#define BLOCKS 1
#endif
#ifndef TF32_BLOCKS
#define TF32_BLOCKS 1
#endif

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
// where k is contiguous, at k · pitch + r where it is not.
struct Operand { const float* data; int rows, pitch, k_contiguous, aligned; };

// What becomes of a finished sum.
struct Epilogue { const float* bias; float* preactivation; int activation, accumulate; };

__device__ __forceinline__ float gelu(float x, int tanh_form) {
    if (tanh_form) return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    return 0.5f * x * (1.0f + erff(x * 0.7071067812f));
}

__device__ __forceinline__ void finish(float* c, float sum, int row, int col, int M, int N, const Epilogue& e) {
    if (row >= M || col >= N) return;
    const long long i = ((long long)blockIdx.z * M + row) * N + col;
    if (e.bias) sum += e.bias[col];
    if (e.preactivation) e.preactivation[i] = sum;
    if (e.activation) sum = gelu(sum, e.activation == 2);
    c[i] = e.accumulate ? c[i] + sum : sum;
}

// Numbers (r, k), (r, k + 1), (r, k + 2), (r, k + 3), zero where k or r is past the end.
__device__ __forceinline__ float4 four_along_k(const Operand& x, int r, int k, int k_end) {
    if (r >= x.rows) return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (x.k_contiguous) {
        const float* p = x.data + (long long)r * x.pitch + k;
        if (x.aligned && k + 3 < k_end) return *(const float4*)p;
        return make_float4(k < k_end ? p[0] : 0.0f, k + 1 < k_end ? p[1] : 0.0f, k + 2 < k_end ? p[2] : 0.0f, k + 3 < k_end ? p[3] : 0.0f);
    }
    const float* p = x.data + (long long)k * x.pitch + r;
    return make_float4(k < k_end ? p[0] : 0.0f, k + 1 < k_end ? p[x.pitch] : 0.0f, k + 2 < k_end ? p[2 * (long long)x.pitch] : 0.0f,
                       k + 3 < k_end ? p[3 * (long long)x.pitch] : 0.0f);
}

// Numbers (r, k), (r + 1, k), (r + 2, k), (r + 3, k) of an operand whose k is not contiguous.
__device__ __forceinline__ float4 four_along_rows(const Operand& x, int r, int k, int k_end) {
    if (k >= k_end) return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const float* p = x.data + (long long)k * x.pitch + r;
    if (x.aligned && r + 3 < x.rows) return *(const float4*)p;
    return make_float4(r < x.rows ? p[0] : 0.0f, r + 1 < x.rows ? p[1] : 0.0f, r + 2 < x.rows ? p[2] : 0.0f, r + 3 < x.rows ? p[3] : 0.0f);
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
                                             float* preactivation, int activation, int accumulate) {
    const int col = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (col >= N) return;
    float sum = 0.0f;
    for (int s = 0; s < n; ++s) sum += shares[((long long)s * M + row) * N + col];
    const Epilogue e = {bias, preactivation, activation, accumulate};
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
                    int activation, int accumulate, int aligned_a, int aligned_b) {
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
    const Epilogue e = {bias, preactivation, activation, accumulate};
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) finish(c, sum[i][j], row0 + ty * 4 + i, col0 + tx * 4 + j, M, N, e);
}

// ---- 8 × 8 results a thread, 16-byte moves, two buffers -------------------------------------------------------------------
// 128 × 128 results, 256 threads, k in slabs of 16. Three things are new.
// 1. The next slab is fetched from global memory into registers before this slab's arithmetic starts, and put into the other
//    buffer after it: the fetch, which takes longer than anything else, passes unnoticed, and one barrier a slab is enough.
// 2. A warp's results are 64 × 32, a thread's are four 4 × 4 squares in them: the warp's reads of one k are then 8 neighbouring
//    quads of as and 4 of bs, which shared memory serves without a conflict.
// (__launch_bounds__(256, BLOCKS): from sm_90 on no more registers than let two blocks share a multiprocessor, one computing while
// the other waits; older compilers' targets would have to spill some, which costs more than it gains.)
// 3. Where k is contiguous in global memory, a fetched quad has to be turned: its 4 numbers go to 4 rows of the buffer. Written
//    straight, 4 quads of one outer row would meet in one memory bank; so row k of the buffer keeps outer row r at r ^ 8 (k / 4).
// A thread fetches two quads of each slab: along the outer rows where those are contiguous and aligned, else along k. This is where
// the first starts, how far from it the second, and how far the next slab's are. Outer rows past the edge are fetched as the last
// row once more: what is computed of them is never written. So the fetch in the loop asks no question that not all threads answer
// alike; a thread that had to compare and branch for every number would have to wait for it there, and not after the arithmetic.
struct Walk { const float* quad; int second, step; };

__device__ __forceinline__ Walk walk_slabs(const Operand& x, int r0, int k0) {
    const int t = threadIdx.x;
    Walk w;
    if (x.k_contiguous) {
        const int r = min(r0 + t / 4, x.rows - 1);
        w.quad = x.data + (long long)r * x.pitch + k0 + t % 4 * 4;
        w.second = (min(r0 + t / 4 + 64, x.rows - 1) - r) * x.pitch;
        w.step = 16;
    } else {
        w.quad = x.data + (x.aligned ? (long long)(k0 + t / 32) * x.pitch + min(r0 + t % 32 * 4, x.rows - 4)
                                     : (long long)(k0 + t / 128 * 4) * x.pitch + min(r0 + t % 128, x.rows - 1));
        w.second = 8 * x.pitch;
        w.step = 16 * x.pitch;
    }
    return w;
}

// A slab all of whose k's exist.
__device__ __forceinline__ void fetch_slab(const Operand& x, Walk* w, float4* quad) {
    const int along_k = x.k_contiguous ? 1 : x.pitch;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float* p = w->quad + i * w->second;
        quad[i] = x.aligned ? *(const float4*)p : make_float4(p[0], p[along_k], p[2 * along_k], p[3 * along_k]);
    }
    w->quad += w->step;
}

// The last slab, where K is no multiple of 16: zeros where k is past the end.
__device__ __forceinline__ void fetch_tail(const Operand& x, int r0, int k0, int k_end, float4* quad) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int f = threadIdx.x + 256 * i;
        if (x.k_contiguous || !x.aligned)
            quad[i] = four_along_k(x, r0 + (x.k_contiguous ? f / 4 : f % 128), k0 + 4 * (x.k_contiguous ? f % 4 : f / 128), k_end);
        else
            quad[i] = four_along_rows(x, r0 + f % 32 * 4, k0 + f / 32, k_end);
    }
}

__device__ __forceinline__ void store_slab(const Operand& x, float (*slab)[128], const float4* quad) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int f = threadIdx.x + 256 * i;
        if (x.k_contiguous || !x.aligned) {
            const int q = x.k_contiguous ? f % 4 : f / 128, r = (x.k_contiguous ? f / 4 : f % 128) ^ (8 * q);
            slab[4 * q][r] = quad[i].x;
            slab[4 * q + 1][r] = quad[i].y;
            slab[4 * q + 2][r] = quad[i].z;
            slab[4 * q + 3][r] = quad[i].w;
        } else {
            const int k = f / 32;
            *(float4*)&slab[k][(f % 32 * 4) ^ (8 * (k / 4))] = quad[i];
        }
    }
}

// sum += this block's product. Called by two kernels, with operands that are both aligned, or of which one may not be, a constant in
// each: in a loop that had both kinds of loads for one register, the second would wait for the first to arrive, taken or not.
__device__ __forceinline__ void add_slabs(const Operand& left, const Operand& right, float (*as)[16][128], float (*bs)[16][128],
                                          int k_begin, int k_end, float (*sum)[8]) {
    const int row0 = blockIdx.x * 128, col0 = blockIdx.y * 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = warp / 4 * 64 + lane / 4 * 4, col = warp % 4 * 32 + lane % 4 * 4;  // of the thread's first square
    Walk walk_a = walk_slabs(left, row0, k_begin), walk_b = walk_slabs(right, col0, k_begin);
    float4 quad_a[2], quad_b[2];
    int whole = (k_end - k_begin) / 16;  // slabs still to fetch; one with only some of its k's comes before them, at the end of the sum
    if (whole > 0 && (k_end - k_begin) % 16 == 0) {
        fetch_slab(left, &walk_a, quad_a);
        fetch_slab(right, &walk_b, quad_b);
        --whole;
    } else {
        fetch_tail(left, row0, k_begin + 16 * whole, k_end, quad_a);
        fetch_tail(right, col0, k_begin + 16 * whole, k_end, quad_b);
    }
    store_slab(left, as[whole & 1], quad_a);
    store_slab(right, bs[whole & 1], quad_b);
    __syncthreads();
    for (; whole >= 0; --whole) {  // the buffers take turns with the count's last bit
        if (whole > 0) {
            fetch_slab(left, &walk_a, quad_a);
            fetch_slab(right, &walk_b, quad_b);
        }
#pragma unroll 4  // unrolled further, the compiler keeps more addresses than it has registers for
        for (int k = 0; k < 16; ++k) {
            const int turn = 8 * (k / 4);
            const float4 l0 = *(const float4*)&as[whole & 1][k][row ^ turn], l1 = *(const float4*)&as[whole & 1][k][(row + 32) ^ turn];
            const float4 r0 = *(const float4*)&bs[whole & 1][k][col ^ turn], r1 = *(const float4*)&bs[whole & 1][k][(col + 16) ^ turn];
            const float l[8] = {l0.x, l0.y, l0.z, l0.w, l1.x, l1.y, l1.z, l1.w}, r[8] = {r0.x, r0.y, r0.z, r0.w, r1.x, r1.y, r1.z, r1.w};
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) sum[i][j] += l[i] * r[j];
        }
        if (whole > 0) {
            store_slab(left, as[(whole - 1) & 1], quad_a);
            store_slab(right, bs[(whole - 1) & 1], quad_b);
        }
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(256, BLOCKS)
matmul_fp32(const float* a, const float* b, float* c, int M, int N, int K, int pitch_a, int pitch_b, int transpose_a, int transpose_b,
            long long stride_a, long long stride_b, int shares, const float* bias, float* preactivation, int activation,
            int accumulate, int aligned_a, int aligned_b) {
    __shared__ float as[2][16][128], bs[2][16][128];
    int k_begin, k_end;
    choose_batch(&a, &b, K, stride_a, stride_b, shares, &k_begin, &k_end);
    float sum[8][8] = {};
    const Operand left = {a, M, pitch_a, !transpose_a, 1}, right = {b, N, pitch_b, transpose_b, 1};
    add_slabs(left, right, as, bs, k_begin, k_end, sum);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = blockIdx.x * 128 + warp / 4 * 64 + lane / 4 * 4, col = blockIdx.y * 128 + warp % 4 * 32 + lane % 4 * 4;
    const Epilogue e = {bias, preactivation, activation, accumulate};
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) finish(c, sum[i][j], row + i / 4 * 32 + i % 4, col + j / 4 * 16 + j % 4, M, N, e);
}

extern "C" __global__ void __launch_bounds__(256)
matmul_fp32_unaligned(const float* a, const float* b, float* c, int M, int N, int K, int pitch_a, int pitch_b, int transpose_a, int transpose_b,
                      long long stride_a, long long stride_b, int shares, const float* bias, float* preactivation, int activation,
                      int accumulate, int aligned_a, int aligned_b) {
    __shared__ float as[2][16][128], bs[2][16][128];
    int k_begin, k_end;
    choose_batch(&a, &b, K, stride_a, stride_b, shares, &k_begin, &k_end);
    float sum[8][8] = {};
    const Operand left = {a, M, pitch_a, !transpose_a, 0}, right = {b, N, pitch_b, transpose_b, 0};
    add_slabs(left, right, as, bs, k_begin, k_end, sum);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = blockIdx.x * 128 + warp / 4 * 64 + lane / 4 * 4, col = blockIdx.y * 128 + warp % 4 * 32 + lane % 4 * 4;
    const Epilogue e = {bias, preactivation, activation, accumulate};
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) finish(c, sum[i][j], row + i / 4 * 32 + i % 4, col + j / 4 * 16 + j % 4, M, N, e);
}

// ---- Tensor cores --------------------------------------------------------------------------------------------------------
// One instruction, mma.sync, multiplies a 16 × 8 piece of A by an 8 × 8 piece of B (in words of 32 bits; a word is one TF32 number
// or two BF16 numbers, neighbours along k), the pieces spread over the registers of the 32 lanes: with g = lane / 4 and
// q = lane % 4 a lane holds words (g, q), (g + 8, q), (g, q + 4), (g + 8, q + 4) of A, words (q, g), (q + 4, g) of B, and the
// results (g, 2q), (g, 2q + 1), (g + 8, 2q), (g + 8, 2q + 1).
//
// Which k is called "q" and which "q + 4" does not matter as long as A and B agree, since the instruction sums over them. Here a
// lane takes words 4q … 4q + 3 of a row of 16, one 16-byte read, and they serve two instructions. The tiles lie in shared memory
// as rows of 16 words, 4 quads; quad q of row r is kept at q ^ (r / 2 % 4), which lets 8 lanes read 2 whole rows, and write one quad
// of 8 rows, without two of them meeting in a bank.
__device__ __forceinline__ unsigned word_tf32(float x) {  // rounded to the nearest of TF32's 19 bits, ties away from zero
#ifdef __CUDACC__
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned u;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(u) : "f"(x));
    return u;
#else
    return 0;
#endif
#else
    const unsigned u = __float_as_uint(x);
    return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & 0xffffe000u;
#endif
}

__device__ __forceinline__ unsigned word_bf16(float low, float high) {  // two numbers, rounded to nearest, ties to even
#ifdef __CUDACC__
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned u;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
    return u;
#else
    return 0;
#endif
#else
    unsigned l = __float_as_uint(low), h = __float_as_uint(high);
    l = low == low ? (l + 0x7fffu + (l >> 16 & 1)) >> 16 : 0x7fffu;
    h = high == high ? (h + 0x7fffu + (h >> 16 & 1)) >> 16 : 0x7fffu;
    return h << 16 | l;
#endif
}

__device__ __forceinline__ void tensor_core(float* d, const unsigned* a, const unsigned* b, int bf16) {
#ifdef __CUDACC__
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if (bf16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();  // before sm_80 there are neither TF32 nor BF16 tensor cores; the launcher does not come here
#endif
#else
    emulator::tensor_core(__LINE__, d, a, b, bf16);
#endif
}

// A thread's two quads of words of one operand's slab (128 rows of 16 words), as the floats that they will be made of: the same
// walk, the same fetch without questions, and the same tail.
__device__ __forceinline__ Walk walk_words(const Operand& x, int r0, int k0, int bf16) {
    const int of_quad = bf16 ? 8 : 4, t = threadIdx.x;
    Walk w;
    if (x.k_contiguous) {
        const int r = min(r0 + t / 4, x.rows - 1);
        w.quad = x.data + (long long)r * x.pitch + k0 + t % 4 * of_quad;
        w.second = (min(r0 + t / 4 + 64, x.rows - 1) - r) * x.pitch;
    } else {
        w.quad = x.data + (long long)(k0 + t / 128 * of_quad) * x.pitch + min(r0 + t % 128, x.rows - 1);
        w.second = 2 * of_quad * x.pitch;
    }
    return w;
}

__device__ __forceinline__ void fetch_words(const Operand& x, Walk* w, int bf16, float4 (*quad)[2]) {
    const int step = x.k_contiguous ? 1 : x.pitch;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float* p = w->quad + i * w->second;
        if (x.k_contiguous && x.aligned) {
            quad[i][0] = *(const float4*)p;
            if (bf16) quad[i][1] = *(const float4*)(p + 4);
        } else {
            quad[i][0] = make_float4(p[0], p[step], p[2 * step], p[3 * step]);
            if (bf16) quad[i][1] = make_float4(p[4 * step], p[5 * step], p[6 * step], p[7 * step]);
        }
    }
    w->quad += (bf16 ? 32 : 16) * step;
}

__device__ __forceinline__ void fetch_words_of_tail(const Operand& x, int r0, int k0, int k_end, int bf16, float4 (*quad)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int f = threadIdx.x + 256 * i, r = r0 + (x.k_contiguous ? f / 4 : f % 128), q = x.k_contiguous ? f % 4 : f / 128;
        quad[i][0] = four_along_k(x, r, k0 + (bf16 ? 8 : 4) * q, k_end);
        if (bf16) quad[i][1] = four_along_k(x, r, k0 + 8 * q + 4, k_end);
    }
}

__device__ __forceinline__ void store_words(unsigned (*slab)[16], float4 (*quad)[2], int k_contiguous, int bf16) {
    const int t = threadIdx.x;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int f = t + 256 * i, r = k_contiguous ? f / 4 : f % 128, q = k_contiguous ? f % 4 : f / 128;
        const float4 x = quad[i][0], y = quad[i][1];
        *(uint4*)&slab[r][4 * (q ^ (r / 2 % 4))] =
            bf16 ? make_uint4(word_bf16(x.x, x.y), word_bf16(x.z, x.w), word_bf16(y.x, y.y), word_bf16(y.z, y.w))
                 : make_uint4(word_tf32(x.x), word_tf32(x.y), word_tf32(x.z), word_tf32(x.w));
    }
}

// sum += this block's product; 8 warps of 64 × 32 results, that is 4 × 4 instructions' results each; two buffers in turn, as above.
__device__ __forceinline__ void add_words(const Operand& left, const Operand& right, unsigned (*as)[128][16], unsigned (*bs)[128][16],
                                          int k_begin, int k_end, int bf16, float (*sum)[4][4]) {
    const int slab = bf16 ? 32 : 16;  // k's in 16 words
    const int row0 = blockIdx.x * 128, col0 = blockIdx.y * 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int g = lane / 4, q = lane % 4, row = warp / 4 * 64, col = warp % 4 * 32;
    const int at = 4 * (q ^ (g / 2));  // where this lane's quad lies in rows g, g + 8, …: the same place in each
    Walk walk_a = walk_words(left, row0, k_begin, bf16), walk_b = walk_words(right, col0, k_begin, bf16);
    float4 quad_a[2][2], quad_b[2][2];
    int whole = (k_end - k_begin) / slab;
    if (whole > 0 && (k_end - k_begin) % slab == 0) {
        fetch_words(left, &walk_a, bf16, quad_a);
        fetch_words(right, &walk_b, bf16, quad_b);
        --whole;
    } else {
        fetch_words_of_tail(left, row0, k_begin + slab * whole, k_end, bf16, quad_a);
        fetch_words_of_tail(right, col0, k_begin + slab * whole, k_end, bf16, quad_b);
    }
    store_words(as[whole & 1], quad_a, left.k_contiguous, bf16);
    store_words(bs[whole & 1], quad_b, right.k_contiguous, bf16);
    __syncthreads();
    for (; whole >= 0; --whole) {  // the buffers take turns with the count's last bit
        if (whole > 0) {
            fetch_words(left, &walk_a, bf16, quad_a);
            fetch_words(right, &walk_b, bf16, quad_b);
        }
        uint4 b[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) b[j] = *(const uint4*)&bs[whole & 1][col + 8 * j + g][at];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint4 a0 = *(const uint4*)&as[whole & 1][row + 16 * i + g][at], a1 = *(const uint4*)&as[whole & 1][row + 16 * i + g + 8][at];
            const unsigned first[4] = {a0.x, a1.x, a0.y, a1.y}, second[4] = {a0.z, a1.z, a0.w, a1.w};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const unsigned b_first[2] = {b[j].x, b[j].y}, b_second[2] = {b[j].z, b[j].w};
                tensor_core(sum[i][j], first, b_first, bf16);
                tensor_core(sum[i][j], second, b_second, bf16);
            }
        }
        if (whole > 0) {
            store_words(as[(whole - 1) & 1], quad_a, left.k_contiguous, bf16);
            store_words(bs[(whole - 1) & 1], quad_b, right.k_contiguous, bf16);
        }
        __syncthreads();
    }
}

// 128 × 128 results. `bf16` is a constant at both places that call this, so each kernel is compiled with only its own half of every
// choice; and the loop is compiled for each way that the operands can be fetched, in quads along k or one by one.
__device__ __forceinline__ void matmul_tensor_cores(Operand left, Operand right, float* c, int M, int N, int k_begin, int k_end,
                                                    const Epilogue& e, int bf16) {
    __shared__ unsigned as[2][128][16], bs[2][128][16];
    float sum[4][4][4] = {};
    const bool quads_a = left.aligned && left.k_contiguous, quads_b = right.aligned && right.k_contiguous;
    if (quads_a && quads_b) {
        left.aligned = right.aligned = left.k_contiguous = right.k_contiguous = 1;
        add_words(left, right, as, bs, k_begin, k_end, bf16, sum);
    } else if (quads_a) {
        left.aligned = left.k_contiguous = 1;
        right.aligned = 0;
        add_words(left, right, as, bs, k_begin, k_end, bf16, sum);
    } else {
        left.aligned = right.aligned = 0;
        add_words(left, right, as, bs, k_begin, k_end, bf16, sum);
    }
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = blockIdx.x * 128 + warp / 4 * 64 + lane / 4, col = blockIdx.y * 128 + warp % 4 * 32 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int n = 0; n < 4; ++n) finish(c, sum[i][j][n], row + 16 * i + n / 2 * 8, col + 8 * j + n % 2, M, N, e);
}

extern "C" __global__ void __launch_bounds__(256, TF32_BLOCKS)
matmul_tf32(const float* a, const float* b, float* c, int M, int N, int K, int pitch_a, int pitch_b, int transpose_a, int transpose_b,
            long long stride_a, long long stride_b, int shares, const float* bias, float* preactivation, int activation,
            int accumulate, int aligned_a, int aligned_b) {
    int k_begin, k_end;
    choose_batch(&a, &b, K, stride_a, stride_b, shares, &k_begin, &k_end);
    const Operand left = {a, M, pitch_a, !transpose_a, aligned_a}, right = {b, N, pitch_b, transpose_b, aligned_b};
    const Epilogue e = {bias, preactivation, activation, accumulate};
    matmul_tensor_cores(left, right, c, M, N, k_begin, k_end, e, 0);
}

extern "C" __global__ void __launch_bounds__(256)
matmul_bf16(const float* a, const float* b, float* c, int M, int N, int K, int pitch_a, int pitch_b, int transpose_a, int transpose_b,
            long long stride_a, long long stride_b, int shares, const float* bias, float* preactivation, int activation,
            int accumulate, int aligned_a, int aligned_b) {
    int k_begin, k_end;
    choose_batch(&a, &b, K, stride_a, stride_b, shares, &k_begin, &k_end);
    const Operand left = {a, M, pitch_a, !transpose_a, aligned_a}, right = {b, N, pitch_b, transpose_b, aligned_b};
    const Epilogue e = {bias, preactivation, activation, accumulate};
    matmul_tensor_cores(left, right, c, M, N, k_begin, k_end, e, 1);
}
