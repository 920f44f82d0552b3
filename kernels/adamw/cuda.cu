// AdamW and the gradient norm on a GPU; the formulas are in reference.py.
//
// The update reads four arrays and writes three, and computes next to nothing: its time is that of moving 28 bytes a parameter.

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
extern "C" __global__ void adamw(float* param, const float* grad, float* m, float* v, long long n, float scale,
                                 const float* scale_array, float decay, float beta1, float beta2, float rest1, float rest2,
                                 float step_size, float root_correction, float eps, int aligned) {
    const long long i = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    const float factor = scale_array ? scale * *scale_array : scale;
    float4 p = load4(param, i, n, aligned), a = load4(m, i, n, aligned), b = load4(v, i, n, aligned);
    const float4 g = load4(grad, i, n, aligned);
    update(&p.x, g.x * factor, &a.x, &b.x, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
    update(&p.y, g.y * factor, &a.y, &b.y, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
    update(&p.z, g.z * factor, &a.z, &b.z, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
    update(&p.w, g.w * factor, &a.w, &b.w, decay, beta1, beta2, rest1, rest2, step_size, root_correction, eps);
    store4(param, i, n, aligned, p);
    store4(m, i, n, aligned, a);
    store4(v, i, n, aligned, b);
}

extern "C" __global__ void scale_array(float* x, long long n, float factor, const float* factor_array) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= factor_array ? factor * *factor_array : factor;
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

// Block b leaves the sum of squares of its share of x in sums[first + b].
extern "C" __global__ void square_sums(const float* x, long long n, double* sums, int first, int aligned) {
    double sum = 0.0;
    const long long step = 4 * (long long)gridDim.x * blockDim.x;
    for (long long i = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x); i < n; i += step) {
        const float4 v = load4(x, i, n, aligned);
        sum += (double)v.x * v.x + (double)v.y * v.y + (double)v.z * v.z + (double)v.w * v.w;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[first + blockIdx.x] = sum;
}

extern "C" __global__ void root_of_sum(const double* sums, double* norm, int n) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += sums[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *norm = sqrt(sum);
}
