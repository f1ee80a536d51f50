// The pivots of a panel on a GPU, in float32 and without groups: the CUDA version of `panel` in
// sbc_kernels/backends/triton/obs_order_kernels.py.
#pragma once

#include <cstdint>

struct CUstream_st;  // cudaStream_t is CUstream_st*; this file needs no CUDA headers

namespace sbc {

constexpr int64_t kMostPanelPlaces = 6144;
constexpr int64_t kMostPanelPivots = 128;
constexpr int64_t kMostPanelSide = INT32_MAX / kMostPanelPivots;  // indices into L fit in 32 bits
constexpr int64_t kPanelAlign =
    16;  // in bytes; in places too, as vectors are read up to a multiple

// A place is the position of a weight among the m that its row has left. All pointers are to device
// memory. Those to vectors and lines are aligned to 16 bytes. Strides are in elements.
struct OrderPanelParams {
  // [width, width] with matrix_stride 0, or packed triangles [rows, matrix_stride] of that width
  const float* matrix;
  float* weight;       // [rows, side]
  float* diagonal;     // [rows, side], of the trailing matrix; positive
  const float* floor;  // [rows, side]: lower bound of the diagonal, against rounding
  int32_t* state;      // [rows, side]: 0 may be removed, 2 is removed
  const int32_t* ids;  // [rows, side]: the column at each place
  float* lines;        // [rows, lines_stride / side, side], out: L
  const float* unit;   // [rows]: scale of `weight`, the value that 1 stands for
  int32_t* order;      // [rows, num_pruned], out: columns done to done + count
  float* loss;         // [rows, num_pruned], out: the same columns
  int64_t rows;
  int64_t matrix_stride;
  int64_t lines_stride;  // a multiple of 4
  int64_t width;         // of a line of the matrix: m to kMostPanelPlaces
  int64_t tile;          // of a packed triangle, a power of two from 4 on; 0: the matrix is square
  int64_t side;          // a multiple of 4, m rounded up to kPanelAlign to kMostPanelSide
  int64_t num_pruned;
  int64_t m;      // 1 to kMostPanelPlaces
  int64_t count;  // pivots in this panel, at most m and kMostPanelPivots
  int64_t done;   // pivots before it
  int device;
};

bool runs_order_panel(int device);

// Devices of compute capability 8.0 and later; throws std::runtime_error with what CUDA says.
void order_panel(const OrderPanelParams& params, CUstream_st* stream);

}  // namespace sbc
