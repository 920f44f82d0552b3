// AdamW and the gradient norm on a GPU; the formulas are in reference.py.
//
// The update reads four arrays and writes three, and computes next to nothing: its time is that of moving 28 bytes a parameter.
// A model has a hundred and more arrays, many of them tiny, and to launch a kernel costs the CPU longer than a tiny array costs the
// GPU. So one launch serves the whole list, through a table of addresses:
//
//   table[w n + i]       the address of the i-th array of list w (n arrays a list), then, after the lists, its length
//   blocks[2 b], [2 b + 1]   which array block b works on, and on which stretch of CHUNK numbers of it

#define CHUNK 4096

__device__ __forceinline__ float4 load4(const float* x, long long i, long long n, int aligned) {
    if (aligned && i + 3 < n) return *(const float4*)(x + i);
    return make_float4(i < n ? x[i] : 0.0f, i + 1 < n ? x[i + 1] : 0.0f, i + 2 < n ? x[i + 2] : 0.0f, i + 3 < n ? x[i + 3] : 0.0f);
}

__device__ __forceinline__ void store4(float* y, long long i, long long n, int aligned, float4 v) {
    if (aligned && i + 3 < n) {
        *(float4*)(y + i) = v;
        return;
    }
    if (i < n) y[i] = v.x;
    if (i + 1 < n) y[i + 1] = v.y;
    if (i + 2 < n) y[i + 2] = v.z;
    if (i + 3 < n) y[i + 3] = v.w;
}

__device__ __forceinline__ void update(float* param, float grad, float* m, float* v, float decay, float beta1, float beta2,
                                       float rest1, float rest2, float step_size, float root_correction, float eps) {
    *m = beta1 * *m + rest1 * grad;
    *v = beta2 * *v + rest2 * grad * grad;
    *param = *param * decay - step_size * *m / (sqrtf(*v) / root_correction + eps);
}

// decay = 1 − lr · weight_decay, rest = 1 − beta, step_size = lr / (1 − beta1ᵗ), root_correction = √(1 − beta2ᵗ): numbers that the
// launcher computes once, in double precision. The gradient is multiplied by `scale`, and by *scale_array where that is given:
// a number that only the GPU knows yet, such as the factor of a clipped gradient, need not travel to the CPU and back.
extern "C" __global__ void adamw_plain(float* param, const float* grad, float* m, float* v, long long n, float scale, float decay,
                                       float beta1, float beta2, float rest1, float rest2, float step_size, float root_correction,
                                       float eps) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) update(param + i, grad[i] * scale, m + i, v + i, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
}

__device__ __forceinline__ bool aligned_address(const float* p) { return ((unsigned long long)p & 15) == 0; }

extern "C" __global__ void adamw(const long long* table, const int* blocks, int n_arrays, float scale, const float* scale_array,
                                 float decay, float beta1, float beta2, float rest1, float rest2, float step_size,
                                 float root_correction, float eps) {
    const int array = blocks[2 * blockIdx.x];
    float *param = (float*)table[array], *grad = (float*)table[n_arrays + array];
    float *m = (float*)table[2 * n_arrays + array], *v = (float*)table[3 * n_arrays + array];
    const long long begin = (long long)CHUNK * blocks[2 * blockIdx.x + 1], length = table[4 * n_arrays + array];
    const long long end = length < begin + CHUNK ? length : begin + CHUNK;
    const bool aligned = aligned_address(param) && aligned_address(grad) && aligned_address(m) && aligned_address(v);
    const float factor = scale_array ? scale * *scale_array : scale;
    for (long long i = begin + 4 * threadIdx.x; i < end; i += 4 * blockDim.x) {
        float4 p = load4(param, i, end, aligned), a = load4(m, i, end, aligned), b = load4(v, i, end, aligned);
        const float4 g = load4(grad, i, end, aligned);
        update(&p.x, g.x * factor, &a.x, &b.x, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
        update(&p.y, g.y * factor, &a.y, &b.y, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
        update(&p.z, g.z * factor, &a.z, &b.z, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
        update(&p.w, g.w * factor, &a.w, &b.w, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
        store4(param, i, end, aligned, p);
        store4(m, i, end, aligned, a);
        store4(v, i, end, aligned, b);
    }
}

extern "C" __global__ void scale_arrays(const long long* table, const int* blocks, int n_arrays, float factor, const float* factor_array) {
    const int array = blocks[2 * blockIdx.x];
    float* x = (float*)table[array];
    const long long begin = (long long)CHUNK * blocks[2 * blockIdx.x + 1], length = table[n_arrays + array];
    const long long end = length < begin + CHUNK ? length : begin + CHUNK;
    const float by = factor_array ? factor * *factor_array : factor;
    for (long long i = begin + threadIdx.x; i < end; i += blockDim.x) x[i] *= by;
}

// ---- The norm, in double precision and in a fixed order ------------------------------------------------------------------
__device__ __forceinline__ double block_sum(double v) {
    __shared__ double of_warp[32];
    for (int bit = 16; bit > 0; bit /= 2) v += __shfl_xor_sync(0xffffffffu, v, bit);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    v = threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : 0.0;
    for (int bit = 16; bit > 0; bit /= 2) v += __shfl_xor_sync(0xffffffffu, v, bit);
    return v;
}

// Block b leaves the sum of squares of its stretch in sums[b].
extern "C" __global__ void square_sums(const long long* table, const int* blocks, int n_arrays, double* sums) {
    const int array = blocks[2 * blockIdx.x];
    const float* x = (const float*)table[array];
    const long long begin = (long long)CHUNK * blocks[2 * blockIdx.x + 1], length = table[n_arrays + array];
    const long long end = length < begin + CHUNK ? length : begin + CHUNK;
    const bool aligned = aligned_address(x);
    float4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = load4(x, begin + 4 * (threadIdx.x + j * 256), end, aligned);  // 256 threads: the whole stretch
    double sum = 0.0;
#pragma unroll
    for (int j = 0; j < 4; ++j)
        sum += (double)v[j].x * v[j].x + (double)v[j].y * v[j].y + (double)v[j].z * v[j].z + (double)v[j].w * v[j].w;
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

extern "C" __global__ void root_of_sum(const double* sums, double* norm, int n) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += sums[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *norm = sqrt(sum);
}
