// Root mean square normalisation over rows, on a GPU; the formulas and the derivation are in reference.py.
//
// A row to a team of threads, which reads it twice: the second time it comes from the cache. dweight needs sums over all rows;
// each block adds 32 columns over a strip of rows, and the strips are added up afterwards. No atomics: the order of every sum is
// fixed, so the same inputs give the same bits.

// Five shuffles add up a warp (softmax/cuda.cu explains them); a team larger than a warp goes on through shared memory.
__device__ __forceinline__ float warp_sum(float v) {
    for (int bit = 16; bit > 0; bit /= 2) v += __shfl_xor_sync(0xffffffffu, v, bit);
    return v;
}

__device__ __forceinline__ float team_sum(float v) {
    __shared__ float of_warp[32];
    v = warp_sum(v);
    if (blockDim.x == 32) return v;
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : 0.0f);
}

// blockDim.x threads to a row, blockDim.y rows to a block.
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

// dx = rstd (dn − n mean(dn n)), a row to a team.
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

// dweight = Σ_rows dy n over a strip of rows: block (i, s) adds 32 columns over the rows of strip s, with 32 × 32 threads.
extern "C" __global__ void rms_norm_weight_sums(const float* dy, const float* x, const float* rstd, float* strips, int rows,
                                                int columns, int rows_of_strip) {
    __shared__ float of_thread[32][33];  // 33: so that a column of it lies in 32 different memory banks
    const int c = blockIdx.x * 32 + threadIdx.x, begin = blockIdx.y * rows_of_strip, end = min(rows, begin + rows_of_strip);
    float dw = 0.0f;
    if (c < columns)
        for (int r = begin + threadIdx.y; r < end; r += 32) {
            const long long i = (long long)r * columns + c;
            dw += dy[i] * x[i] * rstd[r];
        }
    of_thread[threadIdx.y][threadIdx.x] = dw;
    __syncthreads();
    const int column = blockIdx.x * 32 + threadIdx.y;  // now a warp to a column
    dw = warp_sum(of_thread[threadIdx.x][threadIdx.y]);
    if (threadIdx.x == 0 && column < columns) strips[(long long)blockIdx.y * columns + column] = dw;
}

// out[c] (+)= Σ_s strips[s][c], a column to a thread: there are few strips.
extern "C" __global__ void rms_norm_add_strips(const float* strips, float* out, int n, int columns, int accumulate) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= columns) return;
    float sum = accumulate ? out[c] : 0.0f;
    for (int s = 0; s < n; ++s) sum += strips[(long long)s * columns + c];
    out[c] = sum;
}
