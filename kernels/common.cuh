// Shared by several .cu files: quads of numbers, sums over warps and teams of threads, the online softmax, tensor cores, GELU.
// nvcc follows the #include; kernels/cuda_file.py copies this text into the .cu file for CuPy and for the emulator.

#define MINUS_INFINITY __int_as_float(0xff800000)
#define NOT_A_NUMBER __int_as_float(0x7fffffff)
#define ALL_LANES 0xffffffffu
#define UNROLL _Pragma("unroll")  // unrolls a loop of constant length, so that the arrays it indexes lie in registers
#define QUADS 4  // quads that a thread loads before it uses the first, so that it waits for memory once
#ifdef __CUDACC__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) float name[]  // aligned, since tiles are read in quads
#endif

// ---- Quads: four neighbouring numbers in one 16-byte access ---------------------------------------------------------------
// Quad i … i + 3 of an array. Numbers outside lo … hi − 1 belong to neighbouring rows: a load returns `fill` for them, and a
// store leaves them alone. `aligned` says that the array starts at a multiple of 16 bytes, and so does every quad whose i is a
// multiple of 4. Callers count i from the start of the array, because a row may start between two such quads.
__device__ __forceinline__ float4 load4(const float* x, long long i, long long lo, long long hi, float fill, int aligned) {
    if (aligned && i >= lo && i + 3 < hi) return *(const float4*)(x + i);
    return make_float4(i >= lo && i < hi ? x[i] : fill, i + 1 >= lo && i + 1 < hi ? x[i + 1] : fill,
                       i + 2 >= lo && i + 2 < hi ? x[i + 2] : fill, i + 3 >= lo && i + 3 < hi ? x[i + 3] : fill);
}

__device__ __forceinline__ void store4(float* y, long long i, long long lo, long long hi, int aligned, float4 v) {
    if (aligned && i >= lo && i + 3 < hi) {
        *(float4*)(y + i) = v;
        return;
    }
    if (i >= lo && i < hi) y[i] = v.x;
    if (i + 1 >= lo && i + 1 < hi) y[i + 1] = v.y;
    if (i + 2 >= lo && i + 2 < hi) y[i + 2] = v.z;
    if (i + 3 >= lo && i + 3 < hi) y[i + 3] = v.w;
}

// The same for an array (or a row) of n numbers, with i ≥ 0.
__device__ __forceinline__ float4 load4(const float* x, long long i, long long n, int aligned) {
    return load4(x, i, i, n, 0.0f, aligned);
}

__device__ __forceinline__ void store4(float* y, long long i, long long n, int aligned, float4 v) {
    store4(y, i, i, n, aligned, v);
}

// Arithmetic on the four numbers of a quad.
__device__ __forceinline__ float4 quad(float v) { return make_float4(v, v, v, v); }
__device__ __forceinline__ float4 operator+(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
__device__ __forceinline__ float4 operator-(float4 a, float4 b) { return make_float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w); }
__device__ __forceinline__ float4 operator*(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }
__device__ __forceinline__ float4 exp4(float4 v) { return make_float4(expf(v.x), expf(v.y), expf(v.z), expf(v.w)); }
__device__ __forceinline__ float sum4(float4 v) { return v.x + v.y + v.z + v.w; }

// ---- Sums over threads ----------------------------------------------------------------------------------------------------
// In a shuffle every lane of a warp reads a register of another lane. In each of five steps a lane reads from the lane whose
// number differs in one bit (16, 8, 4, 2, 1). In the end every lane has the sum of all 32.
template <class T> __device__ __forceinline__ T warp_sum(T v) {
    for (int bit = 16; bit > 0; bit /= 2) v += __shfl_xor_sync(ALL_LANES, v, bit);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
    for (int bit = 16; bit > 0; bit /= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, bit));
    return v;
}

// A team is all threads with the same threadIdx.y: a single warp (then several teams share the block), or the whole block. The
// warps of a larger team exchange one number each through shared memory: lane w returns warp w's number, or `neutral` past the
// last warp.
__device__ __forceinline__ float exchange_between_warps(float v, float neutral) {
    __shared__ float warp_values[32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    __syncthreads();  // every thread has read the numbers of an earlier call
    if (lane == 0) warp_values[warp] = v;
    __syncthreads();
    return lane < warps ? warp_values[lane] : neutral;
}

__device__ __forceinline__ float team_sum(float v) {
    v = warp_sum(v);
    return blockDim.x == 32 ? v : warp_sum(exchange_between_warps(v, 0.0f));
}

__device__ __forceinline__ float team_max(float v) {
    v = warp_max(v);
    return blockDim.x == 32 ? v : warp_max(exchange_between_warps(v, MINUS_INFINITY));
}

// In a block of 32 × 32 threads, thread (x, y) passes a number of column x and gets the sum of column y: `tile` transposes the
// numbers, then each warp adds up a column. Rows of 33 spread a column over the 32 banks of shared memory.
__device__ __forceinline__ float column_sum(float (*tile)[33], float v) {
    tile[threadIdx.y][threadIdx.x] = v;
    __syncthreads();
    return warp_sum(tile[threadIdx.x][threadIdx.y]);
}

// ---- Online softmax -------------------------------------------------------------------------------------------------------
// The maximum and the sum of exponentials in one pass (Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3): keep the
// running maximum m and s = Σ exp(x − m), and multiply s by exp(m − m_new) when the maximum grows. A call adds QUADS quads.
__device__ __forceinline__ void add_online(float* m, float* s, const float4* v) {
    float top = *m;
    UNROLL for (int j = 0; j < QUADS; ++j) top = fmaxf(top, fmaxf(fmaxf(v[j].x, v[j].y), fmaxf(v[j].z, v[j].w)));
    const float shift = top == MINUS_INFINITY ? 0.0f : top;  // after -inf only: exp(-inf − 0) is 0, exp(-inf + inf) is NaN
    float sum = 0.0f;
    UNROLL for (int j = 0; j < QUADS; ++j) sum += sum4(exp4(v[j] - quad(shift)));
    *s = *s * expf(*m - shift) + sum;
    *m = top;
}

// ---- GELU: gelu/reference.py has the formulas -----------------------------------------------------------------------------
__device__ __forceinline__ float gelu(float x, int tanh_form) {
    if (tanh_form) return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    return 0.5f * x * (1.0f + erff(x * 0.7071067812f));
}

// ---- Tensor cores ---------------------------------------------------------------------------------------------------------
// One instruction, mma.sync: D (16 × 8) += A (16 × 8) B (8 × 8), spread over the registers of the 32 lanes. With g = lane / 4
// and q = lane % 4, a lane holds
//
//     A   (g, q), (g + 8, q), (g, q + 4), (g + 8, q + 4)
//     B   (q, g), (q + 4, g)
//     D   (g, 2q), (g, 2q + 1), (g + 8, 2q), (g + 8, 2q + 1)
//
// The instruction sums over k, so the order of the k does not matter as long as A and B agree. Our callers put k = 2q at q and
// k = 2q + 1 at q + 4, so that one read fetches both numbers. In BF16 one register holds both.
__device__ __forceinline__ void tensor_core(float* d, const unsigned* a, const unsigned* b, int bf16) {
#ifndef __CUDACC__
    emulator::tensor_core(EMULATOR_LINE, d, a, b, bf16);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if (bf16)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    else
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();  // sm_75 has no tensor cores for TF32 or BF16; the launcher refuses it (kernels.gpu.require_tensor_cores)
#endif
}

// Rounds to the nearest TF32 number, which has 19 bits; the tensor core ignores the other 13.
__device__ __forceinline__ unsigned to_tf32(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    unsigned u;
    asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(u) : "f"(x));  // one instruction, from sm_90 on
    return u;
#else
    return __float_as_uint(x) + (fabsf(x) < __int_as_float(0x7f800000) ? 0x1000u : 0u);  // infinity and NaN stay as they are
#endif
}
