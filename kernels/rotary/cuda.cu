// Rotary positions; reference.py has the formula. A thread rotates one pair: numbers i and i + half of a row.
extern "C" __global__ void rotary(const float* x, const float* cosines, const float* sines, float* y, long long pairs, int T,
                                  int half, float sign) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= pairs) return;
    const long long row = i / half, first = 2 * row * half + i % half;  // place of the pair's first number
    const long long angle = row % T * half + i % half;
    const float a = x[first], b = x[first + half], c = cosines[angle], s = sines[angle] * sign;
    y[first] = a * c - b * s;
    y[first + half] = b * c + a * s;
}
