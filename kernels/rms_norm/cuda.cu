// Root mean square normalisation over rows; reference.py has the formulas and the derivation.
//
// A team of threads computes a row and reads it twice; the second read comes from the cache. dweight sums over all rows: a
// block adds up 32 columns over a strip of rows, and a second kernel adds up the strips. No kernel uses atomics, so every sum
// has a fixed order and the same inputs give the same bits.

#include "../common.cuh"

// A team has blockDim.x threads, and a block has blockDim.y teams.
extern "C" __global__ void __launch_bounds__(512)
rms_norm_forward(const float* x, const float* weight, float* y, float* rstd, int rows, int columns, float eps) {
    const int r = blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    const long long row = (long long)r * columns;
    float squares = 0.0f;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) squares += x[row + c] * x[row + c];
    const float scale = 1.0f / sqrtf(team_sum(squares) / columns + eps);
    for (int c = threadIdx.x; c < columns; c += blockDim.x) y[row + c] = x[row + c] * scale * (weight ? weight[c] : 1.0f);
    if (threadIdx.x == 0) rstd[r] = scale;
}

// dx = rstd (dn − n mean(dn n)). The threads are arranged as in rms_norm_forward.
extern "C" __global__ void __launch_bounds__(512)
rms_norm_backward_input(const float* dy, const float* x, const float* weight, const float* rstd, float* dx, int rows, int columns) {
    const int r = blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    const long long row = (long long)r * columns;
    const float scale = rstd[r];
    float stretch = 0.0f;
    for (int c = threadIdx.x; c < columns; c += blockDim.x)
        stretch += dy[row + c] * (weight ? weight[c] : 1.0f) * x[row + c] * scale;
    stretch = team_sum(stretch) / columns;
    for (int c = threadIdx.x; c < columns; c += blockDim.x)
        dx[row + c] = scale * (dy[row + c] * (weight ? weight[c] : 1.0f) - x[row + c] * scale * stretch);
}

// strips[s] = Σ dy n over the rows of strip s: block (i, s) of 32 × 32 threads adds up 32 columns.
extern "C" __global__ void rms_norm_weight_sums(const float* dy, const float* x, const float* rstd, float* strips, int rows,
                                                int columns, int rows_of_strip) {
    __shared__ float tile[32][33];
    const int c = blockIdx.x * 32 + threadIdx.x, begin = blockIdx.y * rows_of_strip, end = min(rows, begin + rows_of_strip);
    float dw = 0.0f;
    if (c < columns)
        for (int r = begin + threadIdx.y; r < end; r += 32) {
            const long long i = (long long)r * columns + c;
            dw += dy[i] * x[i] * rstd[r];
        }
    dw = column_sum(tile, dw);
    const int column = blockIdx.x * 32 + threadIdx.y;
    if (threadIdx.x == 0 && column < columns) strips[(long long)blockIdx.y * columns + column] = dw;
}

// out[c] (+)= Σ_s strips[s][c] over n strips, one column a thread: there are few strips.
extern "C" __global__ void rms_norm_add_strips(const float* strips, float* out, int n, int columns, int accumulate) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= columns) return;
    float sum = accumulate ? out[c] : 0.0f;
    for (int s = 0; s < n; ++s) sum += strips[(long long)s * columns + c];
    out[c] = sum;
}
