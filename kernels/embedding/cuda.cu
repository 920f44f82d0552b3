// Rows gathered from a table; reference.py has the derivation.
//
// The forward pass copies rows. The backward pass adds up the gradients of all copies of a row. Atomic additions would be the
// simplest way, but the last bits of a sum would depend on their order, and two runs of one training would differ. Here each sum
// has one owner and one order: the warp at the first place of an index in the list walks over the later places.

#include "../common.cuh"

// Block r copies a row: y[r] = weight[indices[r]]. For an index out of range it writes NaN and reads nothing.
extern "C" __global__ void embedding_forward(const float* weight, const long long* indices, float* y, int table_rows, int columns) {
    const long long index = indices[blockIdx.x], r = blockIdx.x;
    const bool valid = index >= 0 && index < table_rows;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) y[r * columns + c] = valid ? weight[index * columns + c] : NOT_A_NUMBER;
}

// dweight[v] (+)= Σ_{r: indices[r] = v} dy[r]; rows v that no index names stay as they are. Block (place, j) is one warp. If its
// place is the first with its index, it adds up columns 128 j … 128 j + 127, four a lane, over all places with that index, in
// order. Else it returns.
extern "C" __global__ void embedding_backward(const float* dy, const long long* indices, float* dweight, int places, int table_rows,
                                              int columns, int accumulate) {
    const int place = blockIdx.x, lane = threadIdx.x, first_column = blockIdx.y * 128 + lane;
    const long long index = indices[place];
    if (index < 0 || index >= table_rows) return;
    for (int r = lane; r < (place + 31) / 32 * 32; r += 32)  // each lane checks one of 32 places; a vote tells all lanes
        if (__any_sync(ALL_LANES, r < place && indices[r] == index)) return;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int base = place / 32 * 32; base < places; base += 32) {
        const int r = base + lane;
        unsigned matches = __ballot_sync(ALL_LANES, r < places && indices[r] == index);  // bit i: place base + i has the index
        while (matches) {
            const long long row = (long long)(base + __ffs(matches) - 1) * columns;
            matches &= matches - 1;
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
