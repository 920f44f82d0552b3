// Dropout, one element a thread. Element i's random number mixes seed + (i + 1) γ in a fixed way (SplitMix64; reference.py), so
// each thread computes its own, the mask is the same on every device, and nothing is stored.

extern "C" __global__ void dropout(const float* x, float* y, long long n, unsigned long long seed, float p, float scale) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned long long z = seed + (unsigned long long)(i + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z = z ^ (z >> 31);
    const float uniform = (float)(unsigned)(z >> 40) * 5.9604644775390625e-8f;  // the top 24 bits, times 2⁻²⁴
    y[i] = uniform >= p ? x[i] * scale : 0.0f;
}
