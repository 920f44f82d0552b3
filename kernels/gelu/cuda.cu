// GELU; reference.py has the formulas and the derivation.
//
// The speed of memory alone limits elementwise work. In gelu_plain a thread computes one element; in the other kernels it computes
// a quad of neighbours, which moves the same bytes with a quarter of the instructions.

#include "../common.cuh"

extern "C" __global__ void gelu_plain(const float* x, float* y, long long n, int tanh_form) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = gelu(x[i], tanh_form);
}

extern "C" __global__ void gelu_forward(const float* x, float* y, long long n, int tanh_form, int aligned) {
    const long long i = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    const float4 v = load4(x, i, n, aligned);
    const float4 r = make_float4(gelu(v.x, tanh_form), gelu(v.y, tanh_form), gelu(v.z, tanh_form), gelu(v.w, tanh_form));
    store4(y, i, n, aligned, r);
}

__device__ __forceinline__ float gelu_slope(float x, int tanh_form) {
    if (tanh_form) {
        const float t = tanhf(0.7978845608f * (x + 0.044715f * x * x * x));
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608f * (1.0f + 3.0f * 0.044715f * x * x);
    }
    return 0.5f * (1.0f + erff(x * 0.7071067812f)) + x * expf(-0.5f * x * x) * 0.3989422804f;
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
