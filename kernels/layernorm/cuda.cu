// Layer normalisation over rows; reference.py has the formulas and the derivation.
//
//     layernorm_plain            thread r computes row r
//     layernorm_forward          a team of threads computes a row and keeps it in registers, so that the mean, and the variance
//                                around that mean (the accurate way, in two passes), cost one read of memory
//     layernorm_backward_input   dx, which needs two sums over a row: a team for each row, of any length
//     layernorm_weight_sums      dweight and dbias, which need sums over all rows: a block adds up 32 columns of a strip of rows
//     layernorm_backward         dx and the strips' sums in one read, if a row fits a team's registers; _wide is for long rows
//     layernorm_add_strips       dweight and dbias from the strips of either kernel
//
// No kernel uses atomics, so every sum has a fixed order and the same inputs give the same bits.

#include "../common.cuh"

extern "C" __global__ void layernorm_plain(const float* x, const float* weight, const float* bias, float* y, float* mean,
                                           float* rstd, int rows, int columns, float eps) {
    const int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= rows) return;
    x += (long long)r * columns;
    y += (long long)r * columns;
    float m = 0.0f, v = 0.0f;
    for (int c = 0; c < columns; ++c) m += x[c];
    m /= columns;
    for (int c = 0; c < columns; ++c) v += (x[c] - m) * (x[c] - m);
    const float scale = 1.0f / sqrtf(v / columns + eps);
    for (int c = 0; c < columns; ++c) y[c] = (x[c] - m) * scale * (weight ? weight[c] : 1.0f) + (bias ? bias[c] : 0.0f);
    mean[r] = m;
    rstd[r] = scale;
}

// weight · n + bias for the quad at column c; without weight or bias, n.
__device__ __forceinline__ float4 affine(float4 n, const float* weight, const float* bias, long long c, long long columns, int aligned) {
    const float4 w = weight ? load4(weight, c, 0, columns, 0.0f, aligned) : quad(1.0f);
    const float4 b = bias ? load4(bias, c, 0, columns, 0.0f, aligned) : quad(0.0f);
    return n * w + b;
}

// The sum of the squared distances from the mean, over the numbers of quad i that belong to the row.
__device__ __forceinline__ float spread(float4 v, float mean, long long i, long long lo, long long hi) {
    float s = 0.0f;
    if (i >= lo && i < hi) s += (v.x - mean) * (v.x - mean);
    if (i + 1 >= lo && i + 1 < hi) s += (v.y - mean) * (v.y - mean);
    if (i + 2 >= lo && i + 2 < hi) s += (v.z - mean) * (v.z - mean);
    if (i + 3 >= lo && i + 3 < hi) s += (v.w - mean) * (v.w - mean);
    return s;
}

// A team has blockDim.x threads, and a block has blockDim.y teams.
extern "C" __global__ void __launch_bounds__(512)
layernorm_forward(const float* x, const float* weight, const float* bias, float* y, float* mean, float* rstd, int rows,
                  int columns, float eps, int aligned) {
    const int r = blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    const long long lo = (long long)r * columns, hi = lo + columns, first = lo / 4 * 4 + 4 * threadIdx.x;
    const long long step = 4 * blockDim.x, chunk = QUADS * step;
    const bool in_registers = hi - lo / 4 * 4 <= chunk;  // else each pass reads the row again
    float4 v[QUADS];
    float sum = 0.0f;
    for (long long at = first; at < hi; at += chunk)
        UNROLL for (int j = 0; j < QUADS; ++j) {
            v[j] = load4(x, at + j * step, lo, hi, 0.0f, aligned);
            sum += sum4(v[j]);
        }
    const float m = team_sum(sum) / columns;
    float squares = 0.0f;
    for (long long at = first; at < hi; at += chunk)
        UNROLL for (int j = 0; j < QUADS; ++j) {
            const long long i = at + j * step;
            squares += spread(in_registers ? v[j] : load4(x, i, lo, hi, 0.0f, aligned), m, i, lo, hi);
        }
    const float scale = 1.0f / sqrtf(team_sum(squares) / columns + eps);
    for (long long at = first; at < hi; at += chunk)
        UNROLL for (int j = 0; j < QUADS; ++j) {
            const long long i = at + j * step;
            const float4 u = in_registers ? v[j] : load4(x, i, lo, hi, 0.0f, aligned);
            const float4 n = (u - quad(m)) * quad(scale);
            if (i < hi) store4(y, i, lo, hi, aligned, affine(n, weight, bias, i - lo, columns, aligned && columns % 4 == 0));
        }
    if (threadIdx.x == 0) {
        mean[r] = m;
        rstd[r] = scale;
    }
}

// dx = rstd (dn − mean(dn) − n mean(dn n)) + plus. A team reads its row twice.
extern "C" __global__ void __launch_bounds__(512)
layernorm_backward_input(const float* dy, const float* x, const float* weight, const float* mean, const float* rstd,
                         const float* plus, float* dx, int rows, int columns) {
    const int r = blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    const long long row = (long long)r * columns;
    const float m = mean[r], scale = rstd[r];
    float shift = 0.0f, stretch = 0.0f;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        const float dn = dy[row + c] * (weight ? weight[c] : 1.0f);
        shift += dn;
        stretch += dn * (x[row + c] - m) * scale;
    }
    shift = team_sum(shift) / columns;
    stretch = team_sum(stretch) / columns;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        const float dn = dy[row + c] * (weight ? weight[c] : 1.0f), n = (x[row + c] - m) * scale;
        dx[row + c] = scale * (dn - shift - n * stretch) + (plus ? plus[row + c] : 0.0f);
    }
}

// dweights[s] = Σ dy n and dbiases[s] = Σ dy over the rows of strip s: block (i, s) of 32 × 32 threads adds up 32 columns.
extern "C" __global__ void layernorm_weight_sums(const float* dy, const float* x, const float* mean, const float* rstd, float* dweights,
                                                 float* dbiases, int rows, int columns, int rows_of_strip) {
    __shared__ float tile_w[32][33], tile_b[32][33];
    const int c = blockIdx.x * 32 + threadIdx.x, begin = blockIdx.y * rows_of_strip, end = min(rows, begin + rows_of_strip);
    float dw = 0.0f, db = 0.0f;
    if (c < columns)
        for (int r = begin + threadIdx.y; r < end; r += 32) {
            const long long i = (long long)r * columns + c;
            dw += dy[i] * (x[i] - mean[r]) * rstd[r];
            db += dy[i];
        }
    dw = column_sum(tile_w, dw);
    db = column_sum(tile_b, db);
    const int column = blockIdx.x * 32 + threadIdx.y;
    if (threadIdx.x == 0 && column < columns) {
        dweights[(long long)blockIdx.y * columns + column] = dw;
        dbiases[(long long)blockIdx.y * columns + column] = db;
    }
}

// dweight[c] (+)= Σ_s dweights[s][c] over n strips, in the blocks whose blockIdx.y is 0; the other blocks add up dbias. A block
// of 32 × 32 threads adds up 32 columns. dweight or dbias is null if the caller does not need it.
extern "C" __global__ void layernorm_add_strips(const float* dweights, const float* dbiases, float* dweight, float* dbias, int n,
                                                int columns, int accumulate_weight, int accumulate_bias) {
    __shared__ float tile[32][33];
    const float* strips = blockIdx.y ? dbiases : dweights;
    float* out = blockIdx.y ? dbias : dweight;
    const int accumulate = blockIdx.y ? accumulate_bias : accumulate_weight;
    if (!out) return;  // the whole block returns
    const int c = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (c < columns)
        for (int s = threadIdx.y; s < n; s += 32) sum += strips[(long long)s * columns + c];
    sum = column_sum(tile, sum);
    const int column = blockIdx.x * 32 + threadIdx.y;
    if (threadIdx.x == 0 && column < columns) out[column] = accumulate ? out[column] + sum : sum;
}

// dx and the sums for dweight and dbias in one read of dy and x. With n teams in the grid, a team computes every n-th row. A
// thread always has the same columns, so its sums over rows stay in registers, and the team writes them as a strip at the end.
// Requires columns % 4 = 0 and columns ≤ 4 quads blockDim.x. `quads`, how many quads of an array a thread has in registers, is a
// constant at both calls, so the unused ends of the arrays below take no registers.
__device__ __forceinline__ void backward_rows(const float* dy, const float* x, const float* weight, const float* mean,
                                              const float* rstd, const float* plus, float* dx, float* dweights, float* dbiases,
                                              int rows, int columns, int aligned, int quads) {
    const int team = blockIdx.x * blockDim.y + threadIdx.y, teams = gridDim.x * blockDim.y;
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    __shared__ float2 warp_sums[2][16];  // alternating, so that one barrier a row is enough
    float4 dw[QUADS], db[QUADS];
    UNROLL for (int j = 0; j < quads; ++j) dw[j] = db[j] = quad(0.0f);
    int turn = 0;
    for (int r = team; r < rows; r += teams, turn ^= 1) {
        const long long lo = (long long)r * columns, hi = lo + columns;
        const float m = mean[r], scale = rstd[r];
        float4 u[QUADS], d[QUADS];
        float shift = 0.0f, stretch = 0.0f;
        UNROLL for (int j = 0; j < quads; ++j) {
            const long long i = lo + 4 * (threadIdx.x + j * blockDim.x);
            u[j] = load4(x, i, lo, hi, m, aligned);
            d[j] = load4(dy, i, lo, hi, 0.0f, aligned);
        }
        UNROLL for (int j = 0; j < quads; ++j) {  // from here on u holds n, and d holds dn
            u[j] = (u[j] - quad(m)) * quad(scale);
            dw[j] = dw[j] + d[j] * u[j];
            db[j] = db[j] + d[j];
            if (weight) d[j] = d[j] * load4(weight, 4 * (threadIdx.x + j * blockDim.x), 0, columns, 0.0f, aligned);
            shift += sum4(d[j]);
            stretch += sum4(d[j] * u[j]);
        }
        shift = warp_sum(shift);
        stretch = warp_sum(stretch);
        if (warps > 1) {
            if (lane == 0) warp_sums[turn][warp] = make_float2(shift, stretch);
            __syncthreads();
            shift = stretch = 0.0f;
            for (int w = 0; w < warps; ++w) {  // every thread adds up the sums of the few warps
                const float2 part = warp_sums[turn][w];
                shift += part.x;
                stretch += part.y;
            }
        }
        shift /= columns;
        stretch /= columns;
        UNROLL for (int j = 0; j < quads; ++j) {
            const long long i = lo + 4 * (threadIdx.x + j * blockDim.x);
            const float4 p = plus ? load4(plus, i, lo, hi, 0.0f, aligned) : quad(0.0f);
            store4(dx, i, lo, hi, aligned, quad(scale) * (d[j] - quad(shift) - u[j] * quad(stretch)) + p);
        }
    }
    UNROLL for (int j = 0; j < quads; ++j) {
        const long long c = 4 * (threadIdx.x + j * blockDim.x), lo = (long long)team * columns;
        store4(dweights, lo + c, lo, lo + columns, aligned, dw[j]);
        store4(dbiases, lo + c, lo, lo + columns, aligned, db[j]);
    }
}

// Up to 512 columns: a team is a warp.
extern "C" __global__ void __launch_bounds__(512)
layernorm_backward(const float* dy, const float* x, const float* weight, const float* mean, const float* rstd, const float* plus,
                   float* dx, float* dweights, float* dbiases, int rows, int columns, int aligned) {
    backward_rows(dy, x, weight, mean, rstd, plus, dx, dweights, dbiases, rows, columns, aligned, QUADS);
}

// Longer rows: more threads with half as many numbers each. The barrier in every row makes warps wait. With 64 registers a
// thread instead of 128, a multiprocessor holds twice as many threads, and some load while others wait.
extern "C" __global__ void __launch_bounds__(512, 2)
layernorm_backward_wide(const float* dy, const float* x, const float* weight, const float* mean, const float* rstd, const float* plus,
                        float* dx, float* dweights, float* dbiases, int rows, int columns, int aligned) {
    backward_rows(dy, x, weight, mean, rstd, plus, dx, dweights, dbiases, rows, columns, aligned, QUADS / 2);
}
