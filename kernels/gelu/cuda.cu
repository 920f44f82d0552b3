// GELU on a GPU; the formulas and the derivation are in reference.py. One source for nvcc, NVRTC and the emulator's g++.
//
// Elementwise work is bound by memory alone: gelu_plain moves 4 bytes a thread at a time and says everything there is to say;
// gelu_forward and gelu_backward move 16, which takes a quarter of the instructions for the same bytes.

// tanh, or exact: x Φ(x) with Φ through erf.
__device__ __forceinline__ float gelu(float x, int tanh_form) {
    if (tanh_form) return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    return 0.5f * x * (1.0f + erff(x * 0.7071067812f));
}

__device__ __forceinline__ float gelu_slope(float x, int tanh_form) {
    if (tanh_form) {
        const float t = tanhf(0.7978845608f * (x + 0.044715f * x * x * x));
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608f * (1.0f + 3.0f * 0.044715f * x * x);
    }
    return 0.5f * (1.0f + erff(x * 0.7071067812f)) + x * expf(-0.5f * x * x) * 0.3989422804f;
}

// Four numbers at x[i], in one access where they are aligned (the launcher looks) and all inside.
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

extern "C" __global__ void gelu_plain(const float* x, float* y, long long n, int tanh_form) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = gelu(x[i], tanh_form);
}

extern "C" __global__ void gelu_forward(const float* x, float* y, long long n, int tanh_form, int aligned) {
    const long long i = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    const float4 v = load4(x, i, n, aligned);
    store4(y, i, n, aligned, make_float4(gelu(v.x, tanh_form), gelu(v.y, tanh_form), gelu(v.z, tanh_form), gelu(v.w, tanh_form)));
}

// dx = dy · gelu'(x)
extern "C" __global__ void gelu_backward(const float* dy, const float* x, float* dx, long long n, int tanh_form, int aligned) {
    const long long i = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    const float4 v = load4(x, i, n, aligned), d = load4(dy, i, n, aligned);
    store4(dx, i, n, aligned,
           make_float4(d.x * gelu_slope(v.x, tanh_form), d.y * gelu_slope(v.y, tanh_form),
                       d.z * gelu_slope(v.z, tanh_form), d.w * gelu_slope(v.w, tanh_form)));
}
