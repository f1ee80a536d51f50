// What a Gram kernel gets. Plain data: no framework, no ownership.
#pragma once

#include <cstdint>

namespace sbc {

// One set of positions that see the same taps of the convolution (a linear layer has one position,
// one region and one shift).
struct GramRegion {
  const int32_t* positions;  // [num_positions], each in [0, P)
  int64_t num_positions;
  const int32_t*
      neighbours;  // [num_shifts, P]: where a shift leads from a position, -1: off the map
  int64_t num_shifts;
  // [num_shifts, channels, channels], added to:
  // out[s, c, z] += sum over t, n, p of x[t, n, p + s, c] * (K x)[t, n, p, z]
  // By filter, and by pairs with integer weights, exact as long as it stays below 2^53.
  double* out;
};

// The sum over time pairs (t, u) of K[t, u] X_u' X_t with K = M'M (the matched filter of the
// membrane), in one of three ways:
//
//   by filter: sum_t X_t' Z_t with Z = K X in integers. X enters one bit plane at a time, Z by
//   value, so a Gram costs T products, not T * T, of Z's width.
//
//   by pairs: binary X only. The counts X_u' X_t of each pair, times K[t, u]. T * T products, but
//   of half a byte, and K may be any float.
//
//   by bytes: as by filter, but Z in digits of base 256, X by value, a product of bytes a digit. Or
//   `squared`: Z = M X in one digit, and the answer is Z' Z; then there is one shift, by nothing.
struct GramParams {
  const int8_t* spikes;  // [T, N, P, C]
  int64_t T, N, P, C;
  int64_t first_channel, channels;  // this group's slice of C
  const double* pair_weights;       // [T, T], symmetric: K by pairs; null: by filter
  const int64_t* matched_filter;    // [T, T]: K (symmetric); where squared M (causal)
  int lane_bytes;                   // by filter, 1, 2, 4 or 8: the width of Z and of its first sum
  int planes;                       // by filter: bits of x; the last one is the sign when is_signed
  int digits;  // by bytes, 1 to 8: of Z; the last one is signed when is_signed. Else 0
  bool is_signed;
  bool squared;
  // By filter: bound on |plane weight * Z|; 36 of them must fit in a lane. By bytes: bound on
  // sum_u |F[t, u] x[u]|, at most 2^53.
  int64_t max_term;
  bool triangle;  // one shift only: leave out[c, z] undefined for c > z
  // By bytes, with a triangle: not 0, write this times the sum to both triangles, whatever was
  // there.
  double finish;
  const GramRegion* regions;
  int64_t num_regions;
};

// Internal linkage, as for all that the files of every instruction set share: see common/simd.h.
static inline bool by_pairs(const GramParams& params) { return params.pair_weights != nullptr; }
static inline bool by_bytes(const GramParams& params) { return params.digits > 0; }

// Spikes of any element type to int8 [T, N, P, C], the layout the kernels read.
struct NarrowResult {
  bool integral;  // every value is an integer in [-128, 127]; otherwise `to` is not to be used
  int minimum, maximum;
};

}  // namespace sbc
