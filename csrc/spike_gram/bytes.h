// Gram matrices as products of bytes, exact in integers.
#pragma once

#include "common/isa.h"
#include "spike_gram/input.h"

namespace sbc {

// Z = F X in digits of base 256, times X. Or `squared`: Z = F X in one digit, and the answer is
// Z' Z; then there is one shift, by nothing.
struct BytesParams : GramInput {
  const int64_t* filter;  // [T, T]: F = K (symmetric); where squared M (causal)
  int digits;             // 1 to 8, of Z; the last one is signed when is_signed
  bool is_signed;
  bool squared;
  int64_t max_term;  // bound on sum_u |F[t, u] x[u]|, at most 2^53
  double finish;     // with a triangle, not 0: write this times the sum to both, whatever was there
};

// Runs on any instruction set, and is fast where tiles of bytes are multiplied (Isa::amx).
void gram_bytes(const BytesParams& params, Isa isa, int threads);

}  // namespace sbc
