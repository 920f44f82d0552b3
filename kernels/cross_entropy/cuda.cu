// Cross-entropy of logits against class numbers, on a GPU; the formulas and the derivation are in reference.py.
//
// The logits of a language model are its largest array (8 × 1024 rows of 50,257 classes are 1.6 GB), so what counts is how often
// they are read. Forward reads them once, keeping a running maximum and sum; backward reads them once and writes the gradient
// once, recomputing each probability from the row's logsumexp. No array of probabilities is ever made.

#define MINUS_INFINITY __int_as_float(0xff800000)
#define HOLD 4  // quads of four numbers that a thread asks for before it uses the first: memory is slow to answer, not to deliver
#define NOT_A_NUMBER __int_as_float(0x7fffffff)

extern "C" __global__ void cross_entropy_plain(const float* logits, const long long* targets, float* losses, float* logsumexp,
                                               int rows, int classes, long long ignore_index) {
    const int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= rows) return;
    losses[r] = logsumexp[r] = 0.0f;
    const long long target = targets[r];
    if (target == ignore_index) return;
    const float* x = logits + (long long)r * classes;
    float top = MINUS_INFINITY, total = 0.0f;
    for (int c = 0; c < classes; ++c) top = fmaxf(top, x[c]);
    for (int c = 0; c < classes; ++c) total += expf(x[c] - top);
    logsumexp[r] = logf(total) + top;
    losses[r] = target >= 0 && target < classes ? logsumexp[r] - x[target] : NOT_A_NUMBER;
}

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

// The running maximum and sum of softmax/cuda.cu.
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

// blockDim.x threads to a row, blockDim.y rows to a block. A target that is no class gives NaN, and nothing is read for it.
extern "C" __global__ void __launch_bounds__(512)
cross_entropy_forward(const float* logits, const long long* targets, float* losses, float* logsumexp, int rows, int classes,
                      long long ignore_index, float smoothing, int aligned) {
    const int r = blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    const long long target = targets[r];
    if (target == ignore_index) {  // the same for the whole team: an ignored row's logits are not read
        if (threadIdx.x == 0) losses[r] = logsumexp[r] = 0.0f;
        return;
    }
    const long long lo = (long long)r * classes, hi = lo + classes, step = 4 * blockDim.x;
    float m = MINUS_INFINITY, s = 0.0f, sum = 0.0f;
    for (long long at = lo / 4 * 4 + 4 * threadIdx.x; at < hi; at += HOLD * step) {
        float4 v[HOLD];
#pragma unroll
        for (int j = 0; j < HOLD; ++j) v[j] = load4(logits, at + j * step, lo, hi, MINUS_INFINITY, aligned);
        add_online(&m, &s, v);
        if (smoothing == 0.0f) continue;
        for (int j = 0; j < HOLD; ++j) {  // the sum of the logits, without the neighbours' -inf
            const float4 u = load4(logits, at + j * step, lo, hi, 0.0f, aligned);
            sum += u.x + u.y + u.z + u.w;
        }
    }
    const float top = team(m, 1);
    const float lse = logf(team(m == MINUS_INFINITY ? 0.0f : s * expf(m - top), 0)) + top;
    if (smoothing != 0.0f) sum = team(sum, 0);
    if (threadIdx.x > 0) return;
    const bool known = target >= 0 && target < classes;
    float at_target = known ? logits[lo + target] : NOT_A_NUMBER;
    if (smoothing != 0.0f) at_target = (1.0f - smoothing) * at_target + smoothing * (sum / classes);
    losses[r] = lse - at_target;
    logsumexp[r] = lse;
}

// dlogits_c = dloss (exp(x_c − logsumexp) − q_c). dlogits may be the logits' own buffer: every number is read by the thread that
// then writes it. (Hence no __restrict__ here.)
extern "C" __global__ void __launch_bounds__(512)
cross_entropy_backward(const float* dlosses, const float* logits, const long long* targets, const float* logsumexp,
                       float* dlogits, int rows, int classes, long long ignore_index, float smoothing, int aligned) {
    const int r = blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    const long long target = targets[r];
    const long long lo = (long long)r * classes, hi = lo + classes, step = 4 * blockDim.x;
    const bool graded = target != ignore_index, known = target >= 0 && target < classes;
    const float dloss = graded && !known ? NOT_A_NUMBER : dlosses[r], lse = logsumexp[r], elsewhere = smoothing / classes;
    if (!graded) {
        for (long long i = lo / 4 * 4 + 4 * threadIdx.x; i < hi; i += step)
            store4(dlogits, i, lo, hi, aligned, make_float4(0.0f, 0.0f, 0.0f, 0.0f));
        return;
    }
    for (long long at = lo / 4 * 4 + 4 * threadIdx.x; at < hi; at += HOLD * step) {
        float4 v[HOLD];
#pragma unroll
        for (int j = 0; j < HOLD; ++j) v[j] = load4(logits, at + j * step, lo, hi, 0.0f, aligned);
#pragma unroll
        for (int j = 0; j < HOLD; ++j) {
            const long long i = at + j * step, hit = lo + target - i;  // which of the four, if any, is the target
            const float on = 1.0f - smoothing;
            store4(dlogits, i, lo, hi, aligned,
                   make_float4(dloss * (expf(v[j].x - lse) - elsewhere - (hit == 0 ? on : 0.0f)),
                               dloss * (expf(v[j].y - lse) - elsewhere - (hit == 1 ? on : 0.0f)),
                               dloss * (expf(v[j].z - lse) - elsewhere - (hit == 2 ? on : 0.0f)),
                               dloss * (expf(v[j].w - lse) - elsewhere - (hit == 3 ? on : 0.0f))));
        }
    }
}
