// What every Gram kernel gets. Plain data: no framework, no ownership.
//
// The sum over time pairs (t, u) of K[t, u] X_u' X_t, with K = M'M (the matched filter of the
// membrane), is found by one of several algorithms. Each has one stem: a params struct and an entry
// in <stem>.h, its blocks and tasks in <stem>.cpp, its inner loops in <stem>_cpu.cpp. In Python the
// plan types of backends/gram_plan.py and the entries of _native are called after the same stems:
//
//   tables   Subset sums in look-up tables. gram_tables: sum_t X_t' Z_t with Z = K X in integer
//            lanes. X enters one bit plane at a time, Z by value, so a Gram costs T products, not
//            T * T, of Z's width. gram_pair_tables: binary X only, the counts X_u' X_t of each pair
//            of times, looked up, times K[t, u]. T * T products, but of half a byte, and K may be
//            any float.
//   counts   The same counts of pairs by population counts of whole vectors.
//   bytes    Z = K X in digits of base 256, X by value, a product of bytes a digit. On a GPU too.
//
// A new algorithm is a stem here, an entry in python/bind_spike_gram.cpp and a plan type; see
// backends/gram_plan.py.
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
  // [groups, num_shifts, channels, channels], added to:
  // out[g, s, c, z] += sum over t, n, p of x[t, n, p + s, c] * (K x)[t, n, p, z], with x the slice
  // of group g. With integer K exact as long as it stays below 2^53.
  double* out;
};

struct GramInput {
  const int8_t* spikes;  // [T, N, P, C]
  int64_t T, N, P, C;
  // Slices of C, one after the other: group g has channels first_channel + g * channels and on.
  int64_t first_channel, channels, groups;
  bool triangle;  // one shift and group only: leave out[c, z] undefined for c > z
  const GramRegion* regions;
  int64_t num_regions;
};

}  // namespace sbc
