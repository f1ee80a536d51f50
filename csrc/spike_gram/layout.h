// What the Gram kernels need around them: spikes to bytes with the channels last, a matrix
// completed from its upper triangle, and one put together from the sums of a convolution.
#pragma once

#include <cstdint>

namespace sbc {

// matrix [d, d] *= factor, its lower triangle taken from the upper one.
void mirror_upper(double* matrix, int64_t d, double factor, int threads);

// What the sums of a convolution's regions add to: see sbc_kernels/conv.py.
struct ConvRegion {
  const double* sums;  // [groups, num_shifts, channels, channels], X' Z
  int64_t num_shifts;
  const int32_t* blocks;  // [num_blocks, 3]: shift, tap of Z, tap of X
  int64_t num_blocks;
};

// matrix [groups, channels, taps, channels, taps] = factor times the sum of all blocks and their
// mirror images. A block of a tap with itself is taken from its upper triangle.
void assemble_conv(const ConvRegion* regions, int64_t num_regions, int64_t groups, int64_t channels,
                   int64_t taps, double factor, double* matrix, int threads);

// Spikes of any element type to int8, the layout the kernels read.
struct NarrowResult {
  bool integral;  // every value is an integer in [-128, 127]; otherwise `to` is not to be used
  int minimum, maximum;  // of the values and 0
};

// from [outer, C, P] of type T to int8 [outer, P, C], in one pass that ends at the first value that
// does not fit. Bytes may come without `to` (null): then they are only looked through.
template <class T>
NarrowResult narrow_spikes(const T* from, int64_t outer, int64_t C, int64_t P, int8_t* to,
                           int threads);

struct MultiplesResult {
  bool integral;         // every value is a multiple of the unit by an integer in [-128, 127]
  int minimum, maximum;  // of the integers and 0
  double largest;        // of the values' magnitudes
  double misfit;         // the first value that is no such multiple; 0 if there is none
};

// As narrow_spikes, for float and double: from = unit times the integers, but for 4 roundings (the
// values', the unit's and the product's). Which value is the misfit depends on no thread.
template <class T>
MultiplesResult narrow_multiples(const T* from, int64_t outer, int64_t C, int64_t P, double unit,
                                 int8_t* to, int threads);

}  // namespace sbc
