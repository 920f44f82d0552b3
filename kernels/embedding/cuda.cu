// Rows gathered from a table, on a GPU; the derivation is in reference.py.
//
// Forward copies rows. Backward adds up, for each row of the table, the gradients of all its copies. Adding them with atomics
// would be simplest, and the last bits of a sum would then depend on which came first: two runs of one training would differ.
// Here each sum has one owner and one order: the warp at the first place where a number occurs walks over the later places.

#define NOT_A_NUMBER __int_as_float(0x7fffffff)

// y[r] = weight[indices[r]], a row to a block. An index that is no row gives NaN, and nothing is read for it.
extern "C" __global__ void embedding_forward(const float* weight, const long long* indices, float* y, int table_rows, int columns) {
    const long long index = indices[blockIdx.x], r = blockIdx.x;
    const bool known = index >= 0 && index < table_rows;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) y[r * columns + c] = known ? weight[index * columns + c] : NOT_A_NUMBER;
}

// dweight[v] (+)= Σ_{r: indices[r] = v} dy[r], v's that do not occur left as they are. Block (r, j) is one warp: it does nothing
// unless place r is the first with its number; then it adds columns 128 j … 128 j + 127 over all places, in order, four a lane.
extern "C" __global__ void embedding_backward(const float* dy, const long long* indices, float* dweight, int places, int table_rows,
                                              int columns, int accumulate) {
    const int place = blockIdx.x, lane = threadIdx.x, first_column = blockIdx.y * 128 + lane;
    const long long index = indices[place];
    if (index < 0 || index >= table_rows) return;
    for (int r = lane; r < (place + 31) / 32 * 32; r += 32)  // 32 places at a look; all lanes learn what any has seen
        if (__any_sync(0xffffffffu, r < place && indices[r] == index)) return;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int base = place / 32 * 32; base < places; base += 32) {
        const int r = base + lane;
        unsigned here = __ballot_sync(0xffffffffu, r < places && indices[r] == index);  // bit i: place base + i has the number
        while (here) {
            const long long row = (long long)(base + __ffs(here) - 1) * columns;
            here &= here - 1;
            for (int j = 0; j < 4; ++j)
                if (first_column + 32 * j < columns) sum[j] += dy[row + first_column + 32 * j];
        }
    }
    float* target = dweight + index * columns;
    for (int j = 0; j < 4; ++j) {
        const int c = first_column + 32 * j;
        if (c < columns) target[c] = accumulate ? target[c] + sum[j] : sum[j];
    }
}
