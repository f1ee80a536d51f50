// Products of planes of bytes on Hopper: what multiply_rows of sbc_kernels/triton does, 256 x 256.
#pragma once

#include <cstdint>

struct CUstream_st;  // *: cudaStream_t, for files without CUDA's headers

namespace sbc {

constexpr int64_t kByteSide = 256;   // of a tile of sums
constexpr int64_t kByteRow = 128;    // bytes of a row of planes: what a step sums over
constexpr int64_t kUnitNumbers = 8;  // of one unit
constexpr int64_t kMostByteRows = INT32_MAX - kByteSide;  // a row and a tile: 32 bits
constexpr int64_t kMostByteUnits = INT32_MAX / 2;

// All pointers lead into the device's memory.
struct MultiplyBytesParams {
  const int8_t* planes;  // [rows, 128], aligned to 16 bytes. Past the end are zeros
  int64_t rows;          // at most kMostByteRows
  // [num_units, 8]: first row left and right, first pair, pairs, first step, last, slot, unused
  const int32_t* units;
  int64_t num_units;     // at most kMostByteUnits
  const int32_t* pairs;  // [*, 2]: slots of the planes, left and right
  int32_t* partials;     // [slots of partial sums, 256, 256], aligned to 8 bytes
  int64_t slots;         // of a step of the planes
  int64_t channels;      // rows of a slot
  int device;
};

bool runs_multiply_bytes(int device);

// partials[slot] = the sum over a unit's steps k of left' right, modulo 2^32. Step k is pair
// k % pairs in step k / pairs of the planes. Devices of compute capability 9.0 only; throws
// std::runtime_error with what CUDA says.
void multiply_bytes(const MultiplyBytesParams& params, CUstream_st* stream);

}  // namespace sbc
