// Layer normalisation over rows, on a GPU; the formulas and the derivation are in reference.py.
//
// Forward: a row to a team of threads that keeps it in registers, so that the mean, then the variance around that mean (the
// accurate way, in two passes) cost one reading. Backward: dx needs two sums over a row, dweight and dbias need sums over all rows.
// layernorm_backward_input and layernorm_weight_sums do the two apart, each the plain way, for any row length;
// layernorm_backward does both in one reading. No kernel adds with atomics: the order of every sum is fixed, so the same
// inputs give the same bits.

#define HOLD 4  // quads of four numbers that a thread keeps: a team of n threads holds a row of up to 16 n numbers

// ---- Moving four numbers at a time: softmax/cuda.cu explains it -----------------------------------------------------------
__device__ __forceinline__ float4 load4(const float* x, long long i, long long lo, long long hi, float fill, int aligned) {
    if (aligned && i >= lo && i + 3 < hi) return *(const float4*)(x + i);
    return make_float4(i >= lo && i < hi ? x[i] : fill, i + 1 >= lo && i + 1 < hi ? x[i + 1] : fill,
                       i + 2 >= lo && i + 2 < hi ? x[i + 2] : fill, i + 3 >= lo && i + 3 < hi ? x[i + 3] : fill);
}

__device__ __forceinline__ void store4(float* y, long long i, long long lo, long long hi, int aligned, float4 v) {
    if (aligned && i >= lo && i + 3 < hi) {
        *(float4*)(y + i) = v;
        return;
    }
    if (i >= lo && i < hi) y[i] = v.x;
    if (i + 1 >= lo && i + 1 < hi) y[i + 1] = v.y;
    if (i + 2 >= lo && i + 2 < hi) y[i + 2] = v.z;
    if (i + 3 >= lo && i + 3 < hi) y[i + 3] = v.w;
}

// ---- Adding up over a team -----------------------------------------------------------------------------------------------
// Five shuffles add up a warp (softmax/cuda.cu explains them); a team larger than a warp goes on through shared memory.
__device__ __forceinline__ float warp_sum(float v) {
    for (int bit = 16; bit > 0; bit /= 2) v += __shfl_xor_sync(0xffffffffu, v, bit);
    return v;
}

__device__ __forceinline__ float team_sum(float v) {
    __shared__ float of_warp[32];
    v = warp_sum(v);
    if (blockDim.x == 32) return v;
    __syncthreads();  // all have read what an earlier call left here
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : 0.0f);
}

__device__ __forceinline__ float4 affine(float4 n, const float* weight, const float* bias, long long c, long long columns, int aligned) {
    const float4 w = weight ? load4(weight, c, 0, columns, 0.0f, aligned) : make_float4(1.0f, 1.0f, 1.0f, 1.0f);
    const float4 b = bias ? load4(bias, c, 0, columns, 0.0f, aligned) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    return make_float4(n.x * w.x + b.x, n.y * w.y + b.y, n.z * w.z + b.z, n.w * w.w + b.w);
}

// The sum of the squared distances from the mean; numbers of a quad that lie outside the row do not count.
__device__ __forceinline__ float spread(float4 v, float mean, long long i, long long lo, long long hi) {
    float s = 0.0f;
    if (i >= lo && i < hi) s += (v.x - mean) * (v.x - mean);
    if (i + 1 >= lo && i + 1 < hi) s += (v.y - mean) * (v.y - mean);
    if (i + 2 >= lo && i + 2 < hi) s += (v.z - mean) * (v.z - mean);
    if (i + 3 >= lo && i + 3 < hi) s += (v.w - mean) * (v.w - mean);
    return s;
}

// ---- Forward -------------------------------------------------------------------------------------------------------------
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

// blockDim.x threads to a row, blockDim.y rows to a block.
extern "C" __global__ void __launch_bounds__(512)
layernorm_forward(const float* x, const float* weight, const float* bias, float* y, float* mean, float* rstd, int rows,
                  int columns, float eps, int aligned) {
    const int r = blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    const long long lo = (long long)r * columns, hi = lo + columns, first = lo / 4 * 4 + 4 * threadIdx.x;
    const long long step = 4 * blockDim.x, chunk = HOLD * step;
    const bool held = hi - lo / 4 * 4 <= chunk;  // else the row is read again for each pass
    float4 v[HOLD];
    float sum = 0.0f;
    for (long long at = first; at < hi; at += chunk)
#pragma unroll
        for (int j = 0; j < HOLD; ++j) {
            v[j] = load4(x, at + j * step, lo, hi, 0.0f, aligned);
            sum += v[j].x + v[j].y + v[j].z + v[j].w;
        }
    const float m = team_sum(sum) / columns;
    float squares = 0.0f;
    for (long long at = first; at < hi; at += chunk)
#pragma unroll
        for (int j = 0; j < HOLD; ++j) {
            const long long i = at + j * step;
            squares += spread(held ? v[j] : load4(x, i, lo, hi, 0.0f, aligned), m, i, lo, hi);
        }
    const float scale = 1.0f / sqrtf(team_sum(squares) / columns + eps);
    for (long long at = first; at < hi; at += chunk)
#pragma unroll
        for (int j = 0; j < HOLD; ++j) {
            const long long i = at + j * step;
            const float4 u = held ? v[j] : load4(x, i, lo, hi, 0.0f, aligned);
            const float4 n = make_float4((u.x - m) * scale, (u.y - m) * scale, (u.z - m) * scale, (u.w - m) * scale);
            if (i < hi) store4(y, i, lo, hi, aligned, affine(n, weight, bias, i - lo, columns, aligned && columns % 4 == 0));
        }
    if (threadIdx.x == 0) {
        mean[r] = m;
        rstd[r] = scale;
    }
}

// ---- Backward ------------------------------------------------------------------------------------------------------------
// dx = rstd (dn − mean(dn) − n mean(dn n)) + plus, a row to a team, any row length, each row read twice.
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

// dweight = Σ_rows dy n and dbias = Σ_rows dy over a strip of rows: block (i, s) adds 32 columns over the rows of strip s.
// Launched with 32 × 32 threads; the partial sums, (strips, columns) each, are added up by layernorm_add_strips.
extern "C" __global__ void layernorm_weight_sums(const float* dy, const float* x, const float* mean, const float* rstd, float* dweights,
                                                 float* dbiases, int rows, int columns, int rows_of_strip) {
    __shared__ float of_thread[2][32][33];  // 33: so that a column of it lies in 32 different memory banks
    const int c = blockIdx.x * 32 + threadIdx.x, begin = blockIdx.y * rows_of_strip, end = min(rows, begin + rows_of_strip);
    float dw = 0.0f, db = 0.0f;
    if (c < columns)
        for (int r = begin + threadIdx.y; r < end; r += 32) {
            const long long i = (long long)r * columns + c;
            dw += dy[i] * (x[i] - mean[r]) * rstd[r];
            db += dy[i];
        }
    of_thread[0][threadIdx.y][threadIdx.x] = dw;
    of_thread[1][threadIdx.y][threadIdx.x] = db;
    __syncthreads();
    const int column = blockIdx.x * 32 + threadIdx.y;  // now a warp to a column
    dw = warp_sum(of_thread[0][threadIdx.x][threadIdx.y]);
    db = warp_sum(of_thread[1][threadIdx.x][threadIdx.y]);
    if (threadIdx.x == 0 && column < columns) {
        dweights[(long long)blockIdx.y * columns + column] = dw;
        dbiases[(long long)blockIdx.y * columns + column] = db;
    }
}

// dweight[c] (+)= Σ_s dweights[s][c], 32 columns to a block of 32 × 32 threads, and the same for dbias where blockIdx.y is 1; both are
// (n, columns), and the one that is not asked for is null.
extern "C" __global__ void layernorm_add_strips(const float* dweights, const float* dbiases, float* dweight, float* dbias, int n,
                                                int columns, int accumulate_weight, int accumulate_bias) {
    __shared__ float of_thread[32][33];
    const float* strips = blockIdx.y ? dbiases : dweights;
    float* out = blockIdx.y ? dbias : dweight;
    const int accumulate = blockIdx.y ? accumulate_bias : accumulate_weight;
    if (!out) return;  // the whole block
    const int c = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (c < columns)
        for (int s = threadIdx.y; s < n; s += 32) sum += strips[(long long)s * columns + c];
    of_thread[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    const int column = blockIdx.x * 32 + threadIdx.y;
    sum = warp_sum(of_thread[threadIdx.x][threadIdx.y]);
    if (threadIdx.x == 0 && column < columns) out[column] = accumulate ? out[column] + sum : sum;
}

// Everything in one reading of dy and x. Each team walks over every gridDim.x-th row; its threads stay at the same columns, so
// they keep the running sums for dweight and dbias in registers and write them once, at the end, as a strip of their own.
// For rows of a multiple of 4 that fit a team (columns ≤ 4 hold blockDim.x). `hold`, the quads that a thread has of each array, is a
// constant where this is called: what is not used of the arrays below takes no registers.
__device__ __forceinline__ void backward_rows(const float* dy, const float* x, const float* weight, const float* mean,
                                              const float* rstd, const float* plus, float* dx, float* dweights, float* dbiases,
                                              int rows, int columns, int aligned, int hold) {
    const int team = blockIdx.x * blockDim.y + threadIdx.y, teams = gridDim.x * blockDim.y;
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    __shared__ float2 of_warp[2][16];  // two of them in turn, so that one barrier a row is enough
    float4 dw[HOLD], db[HOLD];
#pragma unroll
    for (int j = 0; j < hold; ++j) dw[j] = db[j] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    int turn = 0;
    for (int r = team; r < rows; r += teams, turn ^= 1) {
        const long long lo = (long long)r * columns, hi = lo + columns;
        const float m = mean[r], scale = rstd[r];
        float4 u[HOLD], d[HOLD];
        float shift = 0.0f, stretch = 0.0f;
#pragma unroll
        for (int j = 0; j < hold; ++j) {
            const long long i = lo + 4 * (threadIdx.x + j * blockDim.x);
            u[j] = load4(x, i, lo, hi, m, aligned);
            d[j] = load4(dy, i, lo, hi, 0.0f, aligned);
        }
#pragma unroll
        for (int j = 0; j < hold; ++j) {  // from here on u is n, and d is dn
            u[j] = make_float4((u[j].x - m) * scale, (u[j].y - m) * scale, (u[j].z - m) * scale, (u[j].w - m) * scale);
            const float4 n = u[j], g = d[j];
            dw[j] = make_float4(dw[j].x + g.x * n.x, dw[j].y + g.y * n.y, dw[j].z + g.z * n.z, dw[j].w + g.w * n.w);
            db[j] = make_float4(db[j].x + g.x, db[j].y + g.y, db[j].z + g.z, db[j].w + g.w);
            if (weight) {
                const float4 w = load4(weight, 4 * (threadIdx.x + j * blockDim.x), 0, columns, 0.0f, aligned);
                d[j] = make_float4(g.x * w.x, g.y * w.y, g.z * w.z, g.w * w.w);
            }
            shift += d[j].x + d[j].y + d[j].z + d[j].w;
            stretch += d[j].x * n.x + d[j].y * n.y + d[j].z * n.z + d[j].w * n.w;
        }
        shift = warp_sum(shift);
        stretch = warp_sum(stretch);
        if (warps > 1) {
            if (lane == 0) of_warp[turn][warp] = make_float2(shift, stretch);
            __syncthreads();
            shift = stretch = 0.0f;
            for (int w = 0; w < warps; ++w) {  // every thread adds up the few warps' sums for itself
                const float2 part = of_warp[turn][w];
                shift += part.x;
                stretch += part.y;
            }
        }
        shift /= columns;
        stretch /= columns;
#pragma unroll
        for (int j = 0; j < hold; ++j) {
            const float4 n = u[j], dn = d[j];
            const long long i = lo + 4 * (threadIdx.x + j * blockDim.x);
            const float4 p = plus ? load4(plus, i, lo, hi, 0.0f, aligned) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            store4(dx, i, lo, hi, aligned,
                   make_float4(scale * (dn.x - shift - n.x * stretch) + p.x, scale * (dn.y - shift - n.y * stretch) + p.y,
                               scale * (dn.z - shift - n.z * stretch) + p.z, scale * (dn.w - shift - n.w * stretch) + p.w));
        }
    }
#pragma unroll
    for (int j = 0; j < hold; ++j) {
        const long long c = 4 * (threadIdx.x + j * blockDim.x), lo = (long long)team * columns;
        store4(dweights, lo + c, lo, lo + columns, aligned, dw[j]);
        store4(dbiases, lo + c, lo, lo + columns, aligned, db[j]);
    }
}

// A row to a warp, up to 512 columns.
extern "C" __global__ void __launch_bounds__(512)
layernorm_backward(const float* dy, const float* x, const float* weight, const float* mean, const float* rstd, const float* plus,
                   float* dx, float* dweights, float* dbiases, int rows, int columns, int aligned) {
    backward_rows(dy, x, weight, mean, rstd, plus, dx, dweights, dbiases, rows, columns, aligned, HOLD);
}

// Longer rows are shared by more threads with half as much each. What a row waits for is its barrier: with 64 registers a thread
// and not 128, a multiprocessor has room for twice as many threads, whose loads are under way meanwhile.
extern "C" __global__ void __launch_bounds__(512, 2)
layernorm_backward_wide(const float* dy, const float* x, const float* weight, const float* mean, const float* rstd, const float* plus,
                        float* dx, float* dweights, float* dbiases, int rows, int columns, int aligned) {
    backward_rows(dy, x, weight, mean, rstd, plus, dx, dweights, dbiases, rows, columns, aligned, HOLD / 2);
}
