// A large Cholesky factorisation in place, which upper_factor, inverse and solve_positive share.
#pragma once

#include "common/isa.h"
#include "factor/cpu.h"

namespace sbc {

// How the tiles of a [d, d] matrix are laid out in `data`, which may be null for their count.
// No result depends on the size of a block; it is smaller where several threads share a small
// matrix.
FactorTiles factor_tiles(double* data, int64_t d, Isa isa, int threads);

// Factors the gathered tiles, A = U'U. Returns 0, or 1 + the place of a pivot that is not positive.
// The result does not depend on `threads`.
int64_t factor(const FactorTiles& a, Isa isa, int threads);

}  // namespace sbc
