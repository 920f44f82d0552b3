// AdamW and the gradient norm; reference.py has the formulas.
//
// The update reads four arrays, writes three and computes little, so it takes the time to move 28 bytes per parameter. A
// model has more than a hundred arrays, and a launch takes the CPU longer than a small array takes the GPU. So one launch
// serves the whole list of arrays, through a table of addresses:
//
//   table[w n + i]           address of array i of list w (n arrays a list); after the lists come the n lengths
//   blocks[2 b], [2 b + 1]   the array of block b, and the number of its chunk of CHUNK elements there

#include "../common.cuh"

#define CHUNK 4096

// One parameter. decay = 1 − lr · weight_decay, rest = 1 − beta, step_size = lr / (1 − beta1ᵗ) and root_correction = √(1 −
// beta2ᵗ): the launcher computes them once, in double precision.
__device__ __forceinline__ void update(float* param, float grad, float* m, float* v, float decay, float beta1, float beta2,
                                       float rest1, float rest2, float step_size, float root_correction, float eps) {
    *m = beta1 * *m + rest1 * grad;
    *v = beta2 * *v + rest2 * grad * grad;
    *param = *param * decay - step_size * *m / (sqrtf(*v) / root_correction + eps);
}

// Updates one array, one parameter a thread.
extern "C" __global__ void adamw_plain(float* param, const float* grad, float* m, float* v, long long n, float scale, float decay,
                                       float beta1, float beta2, float rest1, float rest2, float step_size, float root_correction,
                                       float eps) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) update(param + i, grad[i] * scale, m + i, v + i, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
}

// The chunk of this block: elements begin … end − 1 of one array.
struct Chunk { int array; long long begin, end; };

__device__ __forceinline__ Chunk this_chunk(const long long* lengths, const int* blocks) {
    const int array = blocks[2 * blockIdx.x];
    const long long begin = (long long)CHUNK * blocks[2 * blockIdx.x + 1], length = lengths[array];
    return {array, begin, length < begin + CHUNK ? length : begin + CHUNK};
}

__device__ __forceinline__ bool aligned_address(const float* p) { return ((unsigned long long)p & 15) == 0; }

// Updates all arrays of the four lists; a thread updates a quad at a time. The gradient is multiplied by `scale`, and by
// *scale_array if that is not null: the GPU computes the factor that clips a gradient, and the CPU need not wait for it.
extern "C" __global__ void adamw(const long long* table, const int* blocks, int n_arrays, float scale, const float* scale_array,
                                 float decay, float beta1, float beta2, float rest1, float rest2, float step_size,
                                 float root_correction, float eps) {
    const Chunk chunk = this_chunk(table + 4 * n_arrays, blocks);
    float *param = (float*)table[chunk.array], *grad = (float*)table[n_arrays + chunk.array];
    float *m = (float*)table[2 * n_arrays + chunk.array], *v = (float*)table[3 * n_arrays + chunk.array];
    const bool aligned = aligned_address(param) && aligned_address(grad) && aligned_address(m) && aligned_address(v);
    const float factor = scale_array ? scale * *scale_array : scale;
    for (long long i = chunk.begin + 4 * threadIdx.x; i < chunk.end; i += 4 * blockDim.x) {
        float4 p = load4(param, i, chunk.end, aligned);
        float4 a = load4(m, i, chunk.end, aligned), b = load4(v, i, chunk.end, aligned);
        const float4 g = load4(grad, i, chunk.end, aligned);
        update(&p.x, g.x * factor, &a.x, &b.x, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
        update(&p.y, g.y * factor, &a.y, &b.y, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
        update(&p.z, g.z * factor, &a.z, &b.z, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
        update(&p.w, g.w * factor, &a.w, &b.w, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
        store4(param, i, chunk.end, aligned, p);
        store4(m, i, chunk.end, aligned, a);
        store4(v, i, chunk.end, aligned, b);
    }
}

// Multiplies all arrays of one list by `factor`, and by *factor_array if that is not null.
extern "C" __global__ void scale_arrays(const long long* table, const int* blocks, int n_arrays, float factor, const float* factor_array) {
    const Chunk chunk = this_chunk(table + n_arrays, blocks);
    float* x = (float*)table[chunk.array];
    const float scale = factor_array ? factor * *factor_array : factor;
    for (long long i = chunk.begin + threadIdx.x; i < chunk.end; i += blockDim.x) x[i] *= scale;
}

// ---- The norm, in double precision and in a fixed order ------------------------------------------------------------------
__device__ __forceinline__ double block_sum(double v) {  // team_sum in double precision
    __shared__ double warp_sums[32];
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? warp_sums[threadIdx.x % 32] : 0.0);
}

// sums[b] = the sum of squares of block b's chunk. Each of 256 threads adds up 16 elements.
extern "C" __global__ void square_sums(const long long* table, const int* blocks, int n_arrays, double* sums) {
    const Chunk chunk = this_chunk(table + n_arrays, blocks);
    const float* x = (const float*)table[chunk.array];
    const bool aligned = aligned_address(x);
    float4 v[4];
    UNROLL for (int j = 0; j < 4; ++j) v[j] = load4(x, chunk.begin + 4 * (threadIdx.x + j * 256), chunk.end, aligned);
    double sum = 0.0;
    UNROLL for (int j = 0; j < 4; ++j)
        sum += (double)v[j].x * v[j].x + (double)v[j].y * v[j].y + (double)v[j].z * v[j].z + (double)v[j].w * v[j].w;
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// *norm = √(the sum of n sums). A single block computes it.
extern "C" __global__ void root_of_sum(const double* sums, double* norm, int n) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += sums[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *norm = sqrt(sum);
}
