// One symmetric positive definite system, many right-hand sides.
#pragma once

#include "common/isa.h"
#include "solve_positive/params.h"

namespace sbc {

// Returns 0, or 1 + the place of a pivot that is not positive. The result does not depend on
// `threads`. Scratch memory: one tiled triangle, and the right-hand sides.
int64_t solve_positive(const SolvePositiveParams& params, Isa isa, int threads);

}  // namespace sbc
