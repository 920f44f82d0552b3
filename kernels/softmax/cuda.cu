// Softmax and log-softmax over rows, on a GPU; the formulas and the derivations are in reference.py.
//
// softmax_plain gives a row to a thread: right, and slow, because neighbouring threads read addresses a whole row apart and
// every row is read three times. The other kernels give a row to a team of threads (a warp, or a whole block where rows are
// long): the team reads 16 bytes a thread side by side, keeps the row in registers, and adds up through warp shuffles. So a row
// is read once and written once, and the time is that of copying it.

#define MINUS_INFINITY __int_as_float(0xff800000)
#define HOLD 4  // quads of four numbers that a thread keeps: a team of n threads holds a row of up to 16 n numbers

extern "C" __global__ void softmax_plain(const float* x, float* y, int rows, int columns) {
    const int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= rows) return;
    x += (long long)r * columns;
    y += (long long)r * columns;
    float top = MINUS_INFINITY, total = 0.0f;
    for (int c = 0; c < columns; ++c) top = fmaxf(top, x[c]);
    for (int c = 0; c < columns; ++c) total += expf(x[c] - top);
    for (int c = 0; c < columns; ++c) y[c] = expf(x[c] - top) / total;
}

// ---- Moving four numbers at a time ---------------------------------------------------------------------------------------
// A row need not start at a multiple of 16 bytes (an odd row length shifts every row). So quads are counted from the start of
// the array, not of the row: i is a multiple of 4, the row is lo…hi−1, and the numbers of a quad that belong to a neighbouring
// row are left alone: `fill` stands for them.
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
// In a shuffle every lane of a warp reads a register of another lane. With the lane's number flipped in one bit a step
// (16, 8, 4, 2, 1) five steps add all 32, and all lanes end with the sum. A team larger than a warp writes one number a warp
// to shared memory and adds those the same way. (Launched with 32 threads a row, several rows make up a block.)
__device__ __forceinline__ float warp_sum(float v) {
    for (int bit = 16; bit > 0; bit /= 2) v += __shfl_xor_sync(0xffffffffu, v, bit);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
    for (int bit = 16; bit > 0; bit /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, bit));
    return v;
}

__device__ __forceinline__ float team(float v, int maximum) {
    __shared__ float of_warp[32];
    v = maximum ? warp_max(v) : warp_sum(v);
    if (blockDim.x == 32) return v;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    __syncthreads();  // all have read what an earlier call left here
    if (lane == 0) of_warp[warp] = v;
    __syncthreads();
    if (maximum) return warp_max(lane < warps ? of_warp[lane] : MINUS_INFINITY);
    return warp_sum(lane < warps ? of_warp[lane] : 0.0f);
}

// ---- Forward -------------------------------------------------------------------------------------------------------------
// The maximum and the sum in one reading ("online softmax", Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3): keep
// a running maximum m and s = Σ exp(x − m); when a larger maximum comes, s shrinks by exp(m − m_new).
__device__ __forceinline__ void add_online(float* m, float* s, const float4* v) {
    float top = *m;
#pragma unroll
    for (int j = 0; j < HOLD; ++j) top = fmaxf(top, fmaxf(fmaxf(v[j].x, v[j].y), fmaxf(v[j].z, v[j].w)));
    const float shift = top == MINUS_INFINITY ? 0.0f : top;  // only -inf so far: exp(-inf − 0) is 0, exp(-inf + inf) would be NaN
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < HOLD; ++j) sum += expf(v[j].x - shift) + expf(v[j].y - shift) + expf(v[j].z - shift) + expf(v[j].w - shift);
    *s = *s * expf(*m - shift) + sum;
    *m = top;
}

// blockDim.x threads to a row, blockDim.y rows to a block.
extern "C" __global__ void __launch_bounds__(512)
softmax_forward(const float* x, float* y, int rows, int columns, int log_form, int aligned) {
    const int r = blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    const long long lo = (long long)r * columns, hi = lo + columns, first = lo / 4 * 4 + 4 * threadIdx.x;
    const long long step = 4 * blockDim.x, chunk = HOLD * step;  // a chunk is what the team holds in its registers at once
    float4 v[HOLD];
    float m = MINUS_INFINITY, s = 0.0f;
    for (long long at = first; at < hi; at += chunk) {
#pragma unroll
        for (int j = 0; j < HOLD; ++j) v[j] = load4(x, at + j * step, lo, hi, MINUS_INFINITY, aligned);
        add_online(&m, &s, v);
    }
    const float top = team(m, 1);
    const float total = team(m == MINUS_INFINITY ? 0.0f : s * expf(m - top), 0);
    const float factor = 1.0f / total, shift = top + logf(total);
    const bool held = hi - lo / 4 * 4 <= chunk;  // the whole row is still in registers; a longer one is read a second time
    for (long long at = first; at < hi; at += chunk)
#pragma unroll
        for (int j = 0; j < HOLD; ++j) {
            const long long i = at + j * step;
            const float4 u = held ? v[j] : load4(x, i, lo, hi, MINUS_INFINITY, aligned);
            const float4 e = log_form ? make_float4(u.x - shift, u.y - shift, u.z - shift, u.w - shift)
                                      : make_float4(expf(u.x - top) * factor, expf(u.y - top) * factor, expf(u.z - top) * factor,
                                                    expf(u.w - top) * factor);
            store4(y, i, lo, hi, aligned, e);
        }
}

// ---- Backward ------------------------------------------------------------------------------------------------------------
// softmax: dx = y (dy − Σ dy y);   log_softmax: dx = dy − exp(y) Σ dy.
extern "C" __global__ void __launch_bounds__(512)
softmax_backward(const float* dy, const float* y, float* dx, int rows, int columns, int log_form, int aligned) {
    const int r = blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    const long long lo = (long long)r * columns, hi = lo + columns, first = lo / 4 * 4 + 4 * threadIdx.x;
    const long long step = 4 * blockDim.x, chunk = HOLD * step;
    float4 d[HOLD], v[HOLD];
    float sum = 0.0f;
    for (long long at = first; at < hi; at += chunk)
#pragma unroll
        for (int j = 0; j < HOLD; ++j) {
            d[j] = load4(dy, at + j * step, lo, hi, 0.0f, aligned);
            v[j] = load4(y, at + j * step, lo, hi, 0.0f, aligned);
            sum += log_form ? d[j].x + d[j].y + d[j].z + d[j].w : d[j].x * v[j].x + d[j].y * v[j].y + d[j].z * v[j].z + d[j].w * v[j].w;
        }
    sum = team(sum, 0);
    const bool held = hi - lo / 4 * 4 <= chunk;
    for (long long at = first; at < hi; at += chunk)
#pragma unroll
        for (int j = 0; j < HOLD; ++j) {
            const long long i = at + j * step;
            const float4 g = held ? d[j] : load4(dy, i, lo, hi, 0.0f, aligned), u = held ? v[j] : load4(y, i, lo, hi, 0.0f, aligned);
            const float4 e = log_form ? make_float4(g.x - expf(u.x) * sum, g.y - expf(u.y) * sum, g.z - expf(u.z) * sum, g.w - expf(u.w) * sum)
                                      : make_float4(u.x * (g.x - sum), u.y * (g.y - sum), u.z * (g.z - sum), u.w * (g.w - sum));
            store4(dx, i, lo, hi, aligned, e);
        }
}
