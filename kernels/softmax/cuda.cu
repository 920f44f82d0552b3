// Softmax and log-softmax over rows; reference.py has the formulas and the derivations.
//
//     softmax_plain     thread r computes row r                      row r:  x x x x x x x x x x x x …   all by thread r
//     softmax_forward   a team of threads computes a row in quads    row r:  xxxx xxxx xxxx xxxx …       by threads 0, 1, 2, 3, …
//
// softmax_plain is slow, because neighbouring threads read addresses a whole row apart, and because it reads every row three
// times. In the other kernels a team (a warp, or a block if rows are long) reads neighbouring addresses and keeps the row in
// registers. Each row is read once and written once, which takes as long as copying it.

#include "../common.cuh"

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

// A team has blockDim.x threads, and a block has blockDim.y teams. A team of n threads keeps a row of up to 16 n numbers in
// registers; a longer row is read a second time. If log_form is 1, y = x − logsumexp(x).
extern "C" __global__ void __launch_bounds__(512)
softmax_forward(const float* x, float* y, int rows, int columns, int log_form, int aligned) {
    const int r = blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    const long long lo = (long long)r * columns, hi = lo + columns, first = lo / 4 * 4 + 4 * threadIdx.x;
    const long long step = 4 * blockDim.x, chunk = QUADS * step;  // a chunk fits the team's registers
    float4 v[QUADS];
    float m = MINUS_INFINITY, s = 0.0f;
    for (long long at = first; at < hi; at += chunk) {
        UNROLL for (int j = 0; j < QUADS; ++j) v[j] = load4(x, at + j * step, lo, hi, MINUS_INFINITY, aligned);
        add_online(&m, &s, v);
    }
    const float top = team_max(m);
    const float total = team_sum(m == MINUS_INFINITY ? 0.0f : s * expf(m - top));
    const float factor = 1.0f / total, shift = top + logf(total);
    const bool in_registers = hi - lo / 4 * 4 <= chunk;
    for (long long at = first; at < hi; at += chunk)
        UNROLL for (int j = 0; j < QUADS; ++j) {
            const long long i = at + j * step;
            const float4 u = in_registers ? v[j] : load4(x, i, lo, hi, MINUS_INFINITY, aligned);
            store4(y, i, lo, hi, aligned, log_form ? u - quad(shift) : exp4(u - quad(top)) * quad(factor));
        }
}

// dx = y (dy − Σ dy y), or, for log_form, dx = dy − exp(y) Σ dy. The threads are arranged as in softmax_forward.
extern "C" __global__ void __launch_bounds__(512)
softmax_backward(const float* dy, const float* y, float* dx, int rows, int columns, int log_form, int aligned) {
    const int r = blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    const long long lo = (long long)r * columns, hi = lo + columns, first = lo / 4 * 4 + 4 * threadIdx.x;
    const long long step = 4 * blockDim.x, chunk = QUADS * step;
    float4 d[QUADS], v[QUADS];
    float sum = 0.0f;
    for (long long at = first; at < hi; at += chunk)
        UNROLL for (int j = 0; j < QUADS; ++j) {
            d[j] = load4(dy, at + j * step, lo, hi, 0.0f, aligned);
            v[j] = load4(y, at + j * step, lo, hi, 0.0f, aligned);
            sum += log_form ? sum4(d[j]) : sum4(d[j] * v[j]);
        }
    sum = team_sum(sum);
    const bool in_registers = hi - lo / 4 * 4 <= chunk;
    for (long long at = first; at < hi; at += chunk)
        UNROLL for (int j = 0; j < QUADS; ++j) {
            const long long i = at + j * step;
            const float4 g = in_registers ? d[j] : load4(dy, i, lo, hi, 0.0f, aligned);
            const float4 u = in_registers ? v[j] : load4(y, i, lo, hi, 0.0f, aligned);
            store4(dx, i, lo, hi, aligned, log_form ? g - exp4(u) * quad(sum) : u * (g - quad(sum)));
        }
}
