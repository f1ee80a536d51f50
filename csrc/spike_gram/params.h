// What a Gram kernel gets. Plain data: no framework, no ownership.
#pragma once

#include <cstdint>

namespace sbc {

// One set of positions that see the same taps of the convolution (a linear layer has one position,
// one region and one shift).
struct GramRegion {
  const int32_t* positions;  // [num_positions], each in [0, P)
  int64_t num_positions;
  const int32_t* neighbours;  // [num_shifts, P]: where a shift leads from a position, -1: off the map
  int64_t num_shifts;
  // [num_shifts, channels, channels], added to:
  // out[s, c, z] += sum over t, n, p of x[t, n, p + s, c] * (K x)[t, n, p, z]
  // Integers all: exact as long as they stay below 2^53.
  double* out;
};

// sum_t X_t' Z_t with Z = K X, K = M'M (the matched filter of the membrane), all in integers.
// X enters one bit plane at a time, Z by value, so a Gram costs T products, not T*T.
struct GramParams {
  const int8_t* spikes;  // [T, N, P, C]
  int64_t T, N, P, C;
  int64_t first_channel, channels;  // this group's slice of C
  const int64_t* matched_filter;    // [T, T], symmetric
  int lane_bytes;                   // 1, 2, 4 or 8: the width of Z and of its first sum
  int planes;                       // bits of x; the last one is the sign when is_signed
  bool is_signed;
  int64_t max_term;  // bound on |plane weight * Z|; 36 of them must fit in a lane
  bool triangle;     // one shift only: leave out[c, z] undefined for c > z
  const GramRegion* regions;
  int64_t num_regions;
};

// Spikes of any element type to int8 [T, N, P, C], the layout the kernels read.
struct NarrowResult {
  bool integral;  // every value is an integer in [-128, 127]; otherwise `to` is not to be used
  int minimum, maximum;
};

}  // namespace sbc
