// Scaled dot-product attention without ever storing a (T, S) matrix; reference.py has the derivation.
//
//     attention_plain              a block owns a query and walks over the keys, one thread per key: slow for many queries, each
//                                  of which reads all keys and values, but fast for decoding's single query
//     attention_forward            a block owns 64 queries and walks over the keys in tiles of 64
//     attention_row_dots           dO_i · O_i of every row, which both backward kernels need
//     attention_backward_keys      dk, dv: a block owns 64 keys and walks over the queries
//     attention_backward_queries   dq: a block owns 64 queries and walks over the keys
//
// Source: Dao et al. 2022, "FlashAttention" (arXiv:2205.14135), algorithms 1 and 4. Only one tile of scores exists at a time.
// Each row keeps its running maximum and sum (common.cuh explains the online softmax); when the maximum grows, the sums so far
// shrink. The backward pass recomputes the weights from the scores and the rows' logsumexp.
//
// A single backward kernel would need five products of tiles instead of seven. But its blocks would add to each other's dq with
// atomics, in any order, so the last bits would vary from run to run. With two kernels every sum has one owner and one order.
//
// HEAD_DIM, the width of a head rounded up to a multiple of 16, is a constant: the launcher compiles this file once for each
// width it meets. In shared memory rows are padded to HEAD_DIM with zeros, which change no product.

#include "../common.cuh"

#ifndef HEAD_DIM
#define HEAD_DIM 64
#endif
#define TILE 64                 // queries, and keys, in a tile
#define WEIGHT_PITCH (TILE + 4)

struct Shape { int T, S, causal, causal_offset; };  // a head's numbers of queries and keys, and its causal mask

// Whether this query sees this key. `start` is the first key that is not padding. (Computing all four conditions with & and | is
// cheaper than branching.)
__device__ __forceinline__ bool visible(const Shape& n, int query, int key, long long start) {
    return (query < n.T) & (key < n.S) & (key >= start) & (!n.causal | (key <= query + n.causal_offset));
}

// strides has three numbers for each tensor (B, H, T, D) of a kernel, in the order of its parameters: the distances from batch
// row to batch row, from head to head and from row to row. D is contiguous.
__device__ __forceinline__ const float* head_of(const float* x, const long long* strides, int which, int batch, int head) {
    return x + batch * strides[3 * which] + head * strides[3 * which + 1];
}

// ---- The plain kernel -----------------------------------------------------------------------------------------------------
// Block (query, b H + h) takes 256 keys at a time: thread t computes the score of key t. Then thread (group, d) adds up the
// contributions of every groups-th key to y[d]. strides: q, k, v, y.
extern "C" __global__ void __launch_bounds__(256)
attention_plain(const float* q, const float* k, const float* v, float* y, float* logsumexp, const long long* strides,
                const long long* key_start, int H, int T, int S, int D, float scale, int causal, int causal_offset) {
    __shared__ float query_row[HEAD_DIM], weights[256], sums[256 + HEAD_DIM], of_warp[8];
    const Shape n = {T, S, causal, causal_offset};
    const int t = threadIdx.x, query = blockIdx.x, batch = blockIdx.y / H, head = blockIdx.y % H;
    q = head_of(q, strides, 0, batch, head) + query * strides[2];
    k = head_of(k, strides, 1, batch, head);
    v = head_of(v, strides, 2, batch, head);
    const long long start = key_start ? key_start[batch] : 0;
    const int end = causal ? min(S, query + causal_offset + 1) : S;
    const int groups = 256 / HEAD_DIM, d = t % HEAD_DIM, group = t / HEAD_DIM;
    for (int c = t; c < HEAD_DIM; c += 256) query_row[c] = c < D ? q[c] : 0.0f;
    __syncthreads();
    float top = MINUS_INFINITY, total = 0.0f, sum = 0.0f;
    for (int k0 = (int)(start > 0 ? start : 0); k0 < end; k0 += 256) {
        float score = MINUS_INFINITY;
        if (visible(n, query, k0 + t, start)) {
            score = 0.0f;
            for (int c = 0; c < D; ++c) score += query_row[c] * k[(k0 + t) * strides[5] + c];
            score *= scale;
        }
        const float warp_top = warp_max(score);
        if (t % 32 == 0) of_warp[t / 32] = warp_top;
        __syncthreads();
        float new_top = top;
        for (int w = 0; w < 8; ++w) new_top = fmaxf(new_top, of_warp[w]);
        const float shift = new_top == MINUS_INFINITY ? 0.0f : new_top, shrink = expf(top - shift);
        weights[t] = expf(score - shift);
        __syncthreads();
        const int count = min(256, end - k0);
        float chunk_sum = 0.0f;
        for (int j = 0; j < count; ++j) chunk_sum += weights[j];  // every thread adds up all weights, so no exchange is needed
        total = total * shrink + chunk_sum;
        top = new_top;
        sum *= shrink;
        if (group < groups && d < D)
            for (int j = group; j < count; j += groups) sum += weights[j] * v[(k0 + j) * strides[8] + d];
        __syncthreads();  // every thread has read weights and of_warp
    }
    sums[t] = sum;
    __syncthreads();
    if (t < D) {
        float all = 0.0f;
        for (int g = 0; g < groups; ++g) all += sums[g * HEAD_DIM + t];
        y[batch * strides[9] + head * strides[10] + query * strides[11] + t] = total == 0.0f ? 0.0f : all / total;
    }
    if (t == 0) logsumexp[(long long)blockIdx.y * T + query] = logf(total) + (total == 0.0f ? 0.0f : top);
}

// ---- The tiled kernels: who owns what -------------------------------------------------------------------------------------
// A block has 128 threads. In a 64 × 64 tile of scores a thread owns ROWS rows, ROW(0), ROW(1), …, with COLUMNS columns each. In
// a 64 × HEAD_DIM result it owns the same rows with WIDTH columns. The threads that share a row are lanes of one warp, whose
// numbers differ in the bits LOWEST to HIGHEST.
#ifndef TENSOR_CORES
#define TENSOR_CORES 0  // 1: tensor cores compute the products below in TF32; everything else stays FP32
#endif
#if TENSOR_CORES  // a warp owns 16 rows; a lane owns rows g and g + 8, and columns 2q and 2q + 1 of every 8, as in mma.sync
#define ROWS 2
#define COLUMNS 16
#define LOWEST 1
#define HIGHEST 2
#define WIDTH (HEAD_DIM / 4)
#define PITCH (HEAD_DIM + 8)    // floats from row to row of a tile; the extra 8 spread 4 rows over the 32 banks
#define ROW(i) ((int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4 + 8 * (i))
#define COLUMN(c) (8 * ((c) / 2) + (int)threadIdx.x % 4 * 2 + (c) % 2)
#define RESULT_COLUMN(c) COLUMN(c)
#else             // a warp owns every 4th pair of rows; a thread owns every 16th column (in results every 16th quad, if HEAD_DIM allows)
#define ROWS 8
#define COLUMNS 4
#define LOWEST 2
#define HIGHEST 16
#define WIDTH (HEAD_DIM / 16)
#define PITCH (HEAD_DIM + 4)    // the extra 4 spread the quads of 8 rows over the 32 banks
#define ROW(i) ((int)threadIdx.x / 32 * 2 + (int)threadIdx.x % 2 + 8 * (i))
#define COLUMN(c) ((int)threadIdx.x % 32 / 2 + 16 * (c))
#if HEAD_DIM % 64 == 0
#define RESULT_COLUMN(c) ((int)threadIdx.x % 32 / 2 * 4 + 64 * ((c) / 4) + (c) % 4)
#else
#define RESULT_COLUMN(c) COLUMN(c)
#endif
#endif

// ---- The tiled kernels: three building blocks -----------------------------------------------------------------------------
// 1. Copies rows row0 … row0 + 63 of x to shared memory, with zeros outside x.
__device__ __forceinline__ void load_tile(float* tile, const float* x, long long stride, int row0, int rows, int D, int aligned) {
    const int quads = HEAD_DIM / 4, rows_at_once = 128 / quads;
    // The usual case: a whole tile, in quads.
    if (aligned && D == HEAD_DIM && row0 + TILE <= rows && TILE % rows_at_once == 0 && 128 % quads == 0) {
        const int r = (int)threadIdx.x / quads, c = (int)threadIdx.x % quads * 4;
        const float* from = x + (row0 + r) * stride + c;
        float* to = tile + r * PITCH + c;
#pragma unroll 4
        for (int i = 0; i < TILE / rows_at_once; ++i, from += rows_at_once * stride)
            *(float4*)(to + i * rows_at_once * PITCH) = *(const float4*)from;
        return;
    }
#pragma unroll 1
    for (int f = threadIdx.x; f < TILE * HEAD_DIM / 4; f += 128) {
        const int r = f / (HEAD_DIM / 4), c = f % (HEAD_DIM / 4) * 4;
        const int width = row0 + r < rows ? D : 0;
        *(float4*)(tile + r * PITCH + c) = load4(x + (row0 + r) * stride, c, width, aligned);
    }
}

#if TENSOR_CORES
// common.cuh's tensor_core for B in FP32. top: this lane's two results in row g, bottom: in row g + 8.
__device__ __forceinline__ void multiply_add(float* top, float* bottom, const unsigned* a, float b0, float b1) {
    const unsigned b[2] = {to_tf32(b0), to_tf32(b1)};
    float d[4] = {top[0], top[1], bottom[0], bottom[1]};
    tensor_core(d, a, b, 0);
    top[0] = d[0], top[1] = d[1], bottom[0] = d[2], bottom[1] = d[3];
}
#endif

// 2. s = A Bᵀ: the dot products of two tiles' rows.
__device__ __forceinline__ void dot_rows(float (*s)[COLUMNS], const float* A, const float* B) {
    UNROLL for (int i = 0; i < ROWS; ++i)
        UNROLL for (int j = 0; j < COLUMNS; ++j) s[i][j] = 0.0f;
#if TENSOR_CORES
    const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
#pragma unroll 2
    for (int d = 0; d < HEAD_DIM; d += 8) {  // one read fetches k = 2q and 2q + 1
        const float2 top = *(const float2*)(A + ROW(0) * PITCH + d + 2 * q), bottom = *(const float2*)(A + ROW(1) * PITCH + d + 2 * q);
        const unsigned a[4] = {to_tf32(top.x), to_tf32(bottom.x), to_tf32(top.y), to_tf32(bottom.y)};
        UNROLL for (int j = 0; j < COLUMNS; j += 2) {
            const float2 b = *(const float2*)(B + (4 * j + g) * PITCH + d + 2 * q);
            multiply_add(&s[0][j], &s[1][j], a, b.x, b.y);
        }
    }
#else
#if HEAD_DIM <= 64  // wider heads need the registers for the sums
#pragma unroll 2
#else
#pragma unroll 1
#endif
    for (int d = 0; d < HEAD_DIM; d += 4) {
        float4 b[COLUMNS];
        UNROLL for (int j = 0; j < COLUMNS; ++j) b[j] = *(const float4*)(B + COLUMN(j) * PITCH + d);
        UNROLL for (int i = 0; i < ROWS; ++i) {
            const float4 a = *(const float4*)(A + ROW(i) * PITCH + d);
            UNROLL for (int j = 0; j < COLUMNS; ++j) {  // four statements, so that each is a fused multiply-add
                s[i][j] += a.x * b[j].x;
                s[i][j] += a.y * b[j].y;
                s[i][j] += a.z * b[j].z;
                s[i][j] += a.w * b[j].w;
            }
        }
    }
#endif
}

// 3. sum += W X: a 64 × 64 tile of weights times a tile of rows.
__device__ __forceinline__ void add_product(float (*sum)[WIDTH], const float* W, const float* X) {
#if TENSOR_CORES
    const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
#pragma unroll 1
    for (int n = 0; n < TILE; n += 8) {
        const float *top = W + ROW(0) * WEIGHT_PITCH + n + q, *bottom = W + ROW(1) * WEIGHT_PITCH + n + q;
        const unsigned a[4] = {to_tf32(top[0]), to_tf32(bottom[0]), to_tf32(top[4]), to_tf32(bottom[4])};
        UNROLL for (int c = 0; c < WIDTH; c += 2) {
            const float* x = X + (n + q) * PITCH + 4 * c + g;
            multiply_add(&sum[0][c], &sum[1][c], a, x[0], x[4 * PITCH]);
        }
    }
#else
#pragma unroll 2
    for (int n = 0; n < TILE; n += 4) {
        float4 w[ROWS];
        UNROLL for (int i = 0; i < ROWS; ++i) w[i] = *(const float4*)(W + ROW(i) * WEIGHT_PITCH + n);
        UNROLL for (int e = 0; e < 4; ++e) {
            const float* row = X + (n + e) * PITCH;
            float x[WIDTH];
#if HEAD_DIM % 64 == 0
            UNROLL for (int c = 0; c < WIDTH; c += 4) {
                const float4 quad = *(const float4*)(row + RESULT_COLUMN(c));
                x[c] = quad.x, x[c + 1] = quad.y, x[c + 2] = quad.z, x[c + 3] = quad.w;
            }
#else
            UNROLL for (int c = 0; c < WIDTH; ++c) x[c] = row[RESULT_COLUMN(c)];
#endif
            UNROLL for (int i = 0; i < ROWS; ++i) {
                const float by = e == 0 ? w[i].x : e == 1 ? w[i].y : e == 2 ? w[i].z : w[i].w;
                UNROLL for (int c = 0; c < WIDTH; ++c) sum[i][c] += by * x[c];
            }
        }
    }
#endif
}

// Copies weights to shared memory for add_product. The threads of one warp write and read a row, so only the warp has to wait.
__device__ __forceinline__ void share_weights(float* W, float (*s)[COLUMNS]) {
    __syncwarp();  // every lane has read the previous weights
    UNROLL for (int i = 0; i < ROWS; ++i)
        UNROLL for (int j = 0; j < COLUMNS; ++j) W[ROW(i) * WEIGHT_PITCH + COLUMN(j)] = s[i][j];
    __syncwarp();
}

// x[row0 …] = sum · factor, for the rows and columns that exist.
__device__ __forceinline__ void store_rows(float* x, long long stride, int row0, int rows, int D, float (*sum)[WIDTH], float factor) {
    UNROLL for (int i = 0; i < ROWS; ++i)
        UNROLL for (int c = 0; c < WIDTH; ++c)
            if (row0 + ROW(i) < rows && RESULT_COLUMN(c) < D) x[(row0 + ROW(i)) * stride + RESULT_COLUMN(c)] = sum[i][c] * factor;
}

// Whether every query of the tile at q0 sees every key of the tile at k0. In this usual case nothing has to be masked.
__device__ __forceinline__ bool all_visible(const Shape& n, int q0, int k0, long long start) {
    return k0 + TILE <= n.S && k0 >= start && (!n.causal || k0 + TILE - 1 <= q0 + n.causal_offset);
}

// Sets the scores of keys that their query does not see to -inf. by_keys: the rows of s are keys, its columns queries.
__device__ __forceinline__ void mask(const Shape& n, float (*s)[COLUMNS], int q0, int k0, long long start, int by_keys) {
    if (all_visible(n, q0, k0, start)) return;
    UNROLL for (int i = 0; i < ROWS; ++i)
        UNROLL for (int j = 0; j < COLUMNS; ++j)
            if (!visible(n, q0 + (by_keys ? COLUMN(j) : ROW(i)), k0 + (by_keys ? ROW(i) : COLUMN(j)), start)) s[i][j] = MINUS_INFINITY;
}

// The maximum and the sum over the threads that share a row.
__device__ __forceinline__ float row_max(float v) {
    for (int bit = HIGHEST; bit >= LOWEST; bit /= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, bit));
    return v;
}
__device__ __forceinline__ float row_sum(float v) {
    for (int bit = HIGHEST; bit >= LOWEST; bit /= 2) v += __shfl_xor_sync(ALL_LANES, v, bit);
    return v;
}

// ---- Forward, tiled -------------------------------------------------------------------------------------------------------
// Block (i, b H + h) owns 64 queries of head h of batch row b. strides: q, k, v, y.
extern "C" __global__ void __launch_bounds__(128, 2)
attention_forward(const float* q, const float* k, const float* v, float* y, float* logsumexp, const long long* strides,
                  const long long* key_start, int H, int T, int S, int D, float scale, int causal, int causal_offset, int aligned) {
    DYNAMIC_SHARED(shared);
    float *Q = shared, *K = Q + TILE * PITCH, *V = K + TILE * PITCH, *W = V + TILE * PITCH;
    const Shape n = {T, S, causal, causal_offset};
    const int batch = blockIdx.y / H, head = blockIdx.y % H;
    const int q0 = (gridDim.x - 1 - blockIdx.x) * TILE;  // the last queries start first: a causal mask gives them the most work
    q = head_of(q, strides, 0, batch, head);
    k = head_of(k, strides, 1, batch, head);
    v = head_of(v, strides, 2, batch, head);
    const long long start = key_start ? key_start[batch] : 0;
    const int begin = (int)(start > 0 ? start : 0) / TILE * TILE, end = causal ? min(S, q0 + TILE + causal_offset) : S;
    load_tile(Q, q, strides[2], q0, T, D, aligned);
    float top[ROWS], total[ROWS], sum[ROWS][WIDTH] = {};
    UNROLL for (int i = 0; i < ROWS; ++i) top[i] = MINUS_INFINITY, total[i] = 0.0f;
    for (int k0 = begin; k0 < end; k0 += TILE) {
        load_tile(K, k, strides[5], k0, S, D, aligned);
        load_tile(V, v, strides[8], k0, S, D, aligned);
        __syncthreads();
        float s[ROWS][COLUMNS];
        dot_rows(s, Q, K);
        UNROLL for (int i = 0; i < ROWS; ++i)
            UNROLL for (int j = 0; j < COLUMNS; ++j) s[i][j] *= scale;
        mask(n, s, q0, k0, start, 0);
        UNROLL for (int i = 0; i < ROWS; ++i) {
            float tile_top = MINUS_INFINITY;
            UNROLL for (int j = 0; j < COLUMNS; ++j) tile_top = fmaxf(tile_top, s[i][j]);
            const float new_top = fmaxf(top[i], row_max(tile_top));
            const float shift = new_top == MINUS_INFINITY ? 0.0f : new_top;  // if no key is visible so far: exp(-inf − 0) is 0
            const float shrink = expf(top[i] - shift);
            float tile_sum = 0.0f;
            UNROLL for (int j = 0; j < COLUMNS; ++j) tile_sum += s[i][j] = expf(s[i][j] - shift);
            total[i] = total[i] * shrink + row_sum(tile_sum);
            top[i] = new_top;
            UNROLL for (int c = 0; c < WIDTH; ++c) sum[i][c] *= shrink;
        }
        share_weights(W, s);
        add_product(sum, W, V);
        __syncthreads();  // every thread has read K and V
    }
    UNROLL for (int i = 0; i < ROWS; ++i) {
        const int query = q0 + ROW(i);
        const float factor = total[i] > 0.0f ? 1.0f / total[i] : total[i];  // 0 for a query that saw no key; NaN stays NaN
        UNROLL for (int c = 0; c < WIDTH; ++c) sum[i][c] *= factor;
        if (COLUMN(0) == 0 && query < T)
            logsumexp[(long long)blockIdx.y * T + query] = logf(total[i]) + (total[i] == 0.0f ? 0.0f : top[i]);
    }
    store_rows(y + batch * strides[9] + head * strides[10], strides[11], q0, T, D, sum, 1.0f);
}

// ---- Backward ------------------------------------------------------------------------------------------------------------
// row_dots[i] = dO_i · O_i, one warp a row. strides: dout, y.
extern "C" __global__ void attention_row_dots(const float* dout, const float* y, float* row_dots, const long long* strides, int H, int T,
                                              int D) {
    const int query = blockIdx.x * blockDim.y + threadIdx.y, batch = blockIdx.y / H, head = blockIdx.y % H, lane = threadIdx.x;
    if (query >= T) return;
    dout = head_of(dout, strides, 0, batch, head) + query * strides[2];
    y = head_of(y, strides, 1, batch, head) + query * strides[5];
    float sum = 0.0f;
    for (int d = lane; d < D; d += 32) sum += dout[d] * y[d];
    sum = warp_sum(sum);
    if (lane == 0) row_dots[(long long)blockIdx.y * T + query] = sum;
}

// dv = Pᵀ dO and dk = scale · dSᵀ q for 64 keys, over all queries that see them. Tiles of scores are transposed: a thread's rows
// are keys, its columns queries. strides: dout, q, k, v, dk, dv.
extern "C" __global__ void __launch_bounds__(128, 2)
attention_backward_keys(const float* dout, const float* q, const float* k, const float* v, const float* logsumexp,
                        const float* row_dots, float* dk, float* dv, const long long* strides, const long long* key_start, int H,
                        int T, int S, int D, float scale, int causal, int causal_offset, int aligned) {
    DYNAMIC_SHARED(shared);
    float *K = shared, *V = K + TILE * PITCH, *Q = V + TILE * PITCH, *dO = Q + TILE * PITCH, *W = dO + TILE * PITCH;
    const Shape n = {T, S, causal, causal_offset};
    const int batch = blockIdx.y / H, head = blockIdx.y % H, k0 = blockIdx.x * TILE;
    dout = head_of(dout, strides, 0, batch, head);
    q = head_of(q, strides, 1, batch, head);
    logsumexp += (long long)blockIdx.y * T;
    row_dots += (long long)blockIdx.y * T;
    const long long start = key_start ? key_start[batch] : 0;
    load_tile(K, head_of(k, strides, 2, batch, head), strides[8], k0, S, D, aligned);
    load_tile(V, head_of(v, strides, 3, batch, head), strides[11], k0, S, D, aligned);
    float sum_k[ROWS][WIDTH] = {}, sum_v[ROWS][WIDTH] = {};
    for (int q0 = causal ? max(0, k0 - causal_offset) / TILE * TILE : 0; q0 < T; q0 += TILE) {
        __syncthreads();  // every thread has read Q and dO
        load_tile(Q, q, strides[5], q0, T, D, aligned);
        load_tile(dO, dout, strides[2], q0, T, D, aligned);
        __syncthreads();
        float p[ROWS][COLUMNS], ds[ROWS][COLUMNS];
        dot_rows(p, K, Q);
        dot_rows(ds, V, dO);
        UNROLL for (int j = 0; j < COLUMNS; ++j) {
            const int query = q0 + COLUMN(j);
            const float lse = query < T ? logsumexp[query] : 0.0f, row_dot = query < T ? row_dots[query] : 0.0f;
            UNROLL for (int i = 0; i < ROWS; ++i) p[i][j] = p[i][j] * scale - lse, ds[i][j] -= row_dot;
        }
        mask(n, p, q0, k0, start, 1);
        UNROLL for (int i = 0; i < ROWS; ++i)
            UNROLL for (int j = 0; j < COLUMNS; ++j) p[i][j] = expf(p[i][j]), ds[i][j] *= p[i][j];
        share_weights(W, p);
        add_product(sum_v, W, dO);
        share_weights(W, ds);
        add_product(sum_k, W, Q);
    }
    store_rows(dk + batch * strides[12] + head * strides[13], strides[14], k0, S, D, sum_k, scale);
    store_rows(dv + batch * strides[15] + head * strides[16], strides[17], k0, S, D, sum_v, 1.0f);
}

// dq = scale · dS k for 64 queries, over all keys that they see. strides: dout, q, k, v, dq.
extern "C" __global__ void __launch_bounds__(128, 2)
attention_backward_queries(const float* dout, const float* q, const float* k, const float* v, const float* logsumexp,
                           const float* row_dots, float* dq, const long long* strides, const long long* key_start, int H, int T,
                           int S, int D, float scale, int causal, int causal_offset, int aligned) {
    DYNAMIC_SHARED(shared);
    float *Q = shared, *dO = Q + TILE * PITCH, *K = dO + TILE * PITCH, *V = K + TILE * PITCH, *W = V + TILE * PITCH;
    const Shape n = {T, S, causal, causal_offset};
    const int batch = blockIdx.y / H, head = blockIdx.y % H;
    const int q0 = (gridDim.x - 1 - blockIdx.x) * TILE;
    k = head_of(k, strides, 2, batch, head);
    v = head_of(v, strides, 3, batch, head);
    const long long start = key_start ? key_start[batch] : 0;
    const int begin = (int)(start > 0 ? start : 0) / TILE * TILE, end = causal ? min(S, q0 + TILE + causal_offset) : S;
    load_tile(Q, head_of(q, strides, 1, batch, head), strides[5], q0, T, D, aligned);
    load_tile(dO, head_of(dout, strides, 0, batch, head), strides[2], q0, T, D, aligned);
    float lse[ROWS], row_dot[ROWS], sum[ROWS][WIDTH] = {};
    UNROLL for (int i = 0; i < ROWS; ++i) {
        const int query = q0 + ROW(i);
        lse[i] = query < T ? logsumexp[(long long)blockIdx.y * T + query] : 0.0f;
        row_dot[i] = query < T ? row_dots[(long long)blockIdx.y * T + query] : 0.0f;
    }
    for (int k0 = begin; k0 < end; k0 += TILE) {
        __syncthreads();  // every thread has read K and V
        load_tile(K, k, strides[8], k0, S, D, aligned);
        load_tile(V, v, strides[11], k0, S, D, aligned);
        __syncthreads();
        float p[ROWS][COLUMNS], ds[ROWS][COLUMNS];
        dot_rows(p, Q, K);
        dot_rows(ds, dO, V);
        UNROLL for (int i = 0; i < ROWS; ++i)
            UNROLL for (int j = 0; j < COLUMNS; ++j) p[i][j] = p[i][j] * scale - lse[i];
        mask(n, p, q0, k0, start, 0);
        UNROLL for (int i = 0; i < ROWS; ++i)
            UNROLL for (int j = 0; j < COLUMNS; ++j) ds[i][j] = expf(p[i][j]) * (ds[i][j] - row_dot[i]);
        share_weights(W, ds);
        add_product(sum, W, K);
    }
    store_rows(dq + batch * strides[12] + head * strides[13], strides[14], q0, T, D, sum, scale);
}
