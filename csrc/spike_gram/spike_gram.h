// Gram matrices of spike trains, exact in integers.
#pragma once

#include "common/isa.h"
#include "spike_gram/params.h"

namespace sbc {

// Adds to each region's `out`. The answer does not depend on `threads`, nor where it is exact on
// `isa`.
void spike_gram(const GramParams& params, Isa isa, int threads);

// The same for params by bytes, and for params by pairs with a triangle and one region; `by_counts`
// says that spike_gram takes the latter way. They run on any instruction set.
void sum_bytes(const GramParams& params, Isa isa, int threads);
void sum_counts(const GramParams& params, Isa isa, int threads);
bool by_counts(const GramParams& params, Isa isa);

// matrix [d, d] *= factor, its lower triangle taken from the upper one.
void mirror_upper(double* matrix, int64_t d, double factor, int threads);

// What the sums of a convolution's regions add to: see sbc_kernels/conv.py.
struct ConvRegion {
  const double* sums;     // [num_shifts, channels, channels], X' Z
  const int32_t* blocks;  // [num_blocks, 3]: shift, tap of Z, tap of X
  int64_t num_blocks;
};

// matrix [channels, taps, channels, taps] = factor times the sum of all blocks and their mirror
// images. A block of a tap with itself is taken from its upper triangle.
void assemble_conv(const ConvRegion* regions, int64_t num_regions, int64_t channels, int64_t taps,
                   double factor, double* matrix, int threads);

// from [outer, C, P] of type T to int8 [outer, P, C].
template <class T>
NarrowResult narrow_spikes(const T* from, int64_t outer, int64_t C, int64_t P, int8_t* to,
                           int threads);

}  // namespace sbc
