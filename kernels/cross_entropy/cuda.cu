// Cross-entropy of logits against class numbers; reference.py has the formulas and the derivation.
//
// The logits are a language model's largest array (8 × 1024 rows of 50,257 classes are 1.6 GB), so the number of times they are
// read decides the speed. Forward reads them once, with a running maximum and sum. Backward reads them once, recomputes each
// probability from the row's logsumexp, and writes the gradient once. No kernel stores probabilities.

#include "../common.cuh"

// Thread r computes row r and reads it twice.
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

// A team of blockDim.x threads computes a row, and a block computes blockDim.y rows. A target out of range reads no logit and
// gives NaN.
extern "C" __global__ void __launch_bounds__(512)
cross_entropy_forward(const float* logits, const long long* targets, float* losses, float* logsumexp, int rows, int classes,
                      long long ignore_index, float smoothing, int aligned) {
    const int r = blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    const long long target = targets[r];
    if (target == ignore_index) {  // the whole team returns, without reading the row's logits
        if (threadIdx.x == 0) losses[r] = logsumexp[r] = 0.0f;
        return;
    }
    const long long lo = (long long)r * classes, hi = lo + classes, step = 4 * blockDim.x;
    float m = MINUS_INFINITY, s = 0.0f, sum = 0.0f;
    for (long long at = lo / 4 * 4 + 4 * threadIdx.x; at < hi; at += QUADS * step) {
        float4 v[QUADS];
        UNROLL for (int j = 0; j < QUADS; ++j) v[j] = load4(logits, at + j * step, lo, hi, MINUS_INFINITY, aligned);
        add_online(&m, &s, v);
        if (smoothing == 0.0f) continue;
        for (int j = 0; j < QUADS; ++j)  // the sum of the logits; load again, with 0 in place of -inf
            sum += sum4(load4(logits, at + j * step, lo, hi, 0.0f, aligned));
    }
    const float top = team_max(m);
    const float lse = logf(team_sum(m == MINUS_INFINITY ? 0.0f : s * expf(m - top))) + top;
    if (smoothing != 0.0f) sum = team_sum(sum);
    if (threadIdx.x > 0) return;
    const bool valid = target >= 0 && target < classes;
    float at_target = valid ? logits[lo + target] : NOT_A_NUMBER;
    if (smoothing != 0.0f) at_target = (1.0f - smoothing) * at_target + smoothing * (sum / classes);
    losses[r] = lse - at_target;
    logsumexp[r] = lse;
}

// dlogits_c = dloss (exp(x_c − logsumexp) − q_c). The threads are arranged as in cross_entropy_forward. dlogits may be the
// logits' own buffer, because the thread that reads a number also writes it; hence no __restrict__ here.
extern "C" __global__ void __launch_bounds__(512)
cross_entropy_backward(const float* dlosses, const float* logits, const long long* targets, const float* logsumexp,
                       float* dlogits, int rows, int classes, long long ignore_index, float smoothing, int aligned) {
    const int r = blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    const long long target = targets[r];
    const long long lo = (long long)r * classes, hi = lo + classes, step = 4 * blockDim.x;
    const bool ignored = target == ignore_index, valid = target >= 0 && target < classes;
    const float dloss = !ignored && !valid ? NOT_A_NUMBER : dlosses[r], lse = logsumexp[r], elsewhere = smoothing / classes;
    if (ignored) {
        for (long long i = lo / 4 * 4 + 4 * threadIdx.x; i < hi; i += step)
            store4(dlogits, i, lo, hi, aligned, quad(0.0f));
        return;
    }
    for (long long at = lo / 4 * 4 + 4 * threadIdx.x; at < hi; at += QUADS * step) {
        float4 v[QUADS];
        UNROLL for (int j = 0; j < QUADS; ++j) v[j] = load4(logits, at + j * step, lo, hi, 0.0f, aligned);
        UNROLL for (int j = 0; j < QUADS; ++j) {
            const long long i = at + j * step, hit = lo + target - i;  // which number of the quad, if any, is the target
            const float on = 1.0f - smoothing;
            store4(dlogits, i, lo, hi, aligned,
                   make_float4(dloss * (expf(v[j].x - lse) - elsewhere - (hit == 0 ? on : 0.0f)),
                               dloss * (expf(v[j].y - lse) - elsewhere - (hit == 1 ? on : 0.0f)),
                               dloss * (expf(v[j].z - lse) - elsewhere - (hit == 2 ? on : 0.0f)),
                               dloss * (expf(v[j].w - lse) - elsewhere - (hit == 3 ? on : 0.0f))));
        }
    }
}
