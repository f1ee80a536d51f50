// Gram matrices of binary spikes by population counts, pair of times by pair of times.
#pragma once

#include "common/isa.h"
#include "spike_gram/input.h"

namespace sbc {

// One group and one region of one shift, by nothing, and a triangle: a linear layer.
struct CountsParams : GramInput {
  const double* pair_weights;  // [T, T], symmetric: K
  double finish;  // not 0: write this times the sum to both triangles, whatever was there
};

// Runs on any instruction set, and is fast where whole vectors are counted (Isa::vpopcnt).
void gram_counts(const CountsParams& params, Isa isa, int threads);

}  // namespace sbc
