// SwiGLU, one result a thread; reference.py has the formulas. x holds rows of 2 F numbers, first F gates g, then F ups u.
// Element i of y is column i % F of row i / F.

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// y = g σ(g) u
extern "C" __global__ void swiglu_forward(const float* x, float* y, long long n, int F) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const long long g = i + i / F * F;
    y[i] = x[g] * sigmoid(x[g]) * x[g + F];
}

// dg = dy u σ (1 + g (1 − σ)),  du = dy g σ
extern "C" __global__ void swiglu_backward(const float* dy, const float* x, float* dx, long long n, int F) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const long long g = i + i / F * F;
    const float s = sigmoid(x[g]);
    dx[g] = dy[i] * x[g + F] * s * (1.0f + x[g] * (1.0f - s));
    dx[g + F] = dy[i] * x[g] * s;
}
