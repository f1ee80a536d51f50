// Gram matrices by subset sums in look-up tables, exact in integers.
#pragma once

#include "common/isa.h"
#include "spike_gram/input.h"

namespace sbc {

// Z = K X in lanes of integers.
struct TablesParams : GramInput {
  const int64_t* matched_filter;  // [T, T]: K, symmetric
  int lane_bytes;                 // 1, 2, 4 or 8: the width of Z and of its first sum
  int planes;                     // 1 to 8 bits of x; the last one is the sign when is_signed
  bool is_signed;
  int64_t max_term;  // bound on |plane weight * Z|; 36 of them must fit in a lane
};

// Binary X, pair of times by pair of times.
struct PairTablesParams : GramInput {
  const double* pair_weights;  // [T, T], symmetric: K
};

// Add to each region's `out`. The answer does not depend on `threads`, nor where it is exact on
// `isa`.
void gram_tables(const TablesParams& params, Isa isa, int threads);
void gram_pair_tables(const PairTablesParams& params, Isa isa, int threads);

}  // namespace sbc
