// The inverse of a symmetric positive definite matrix.
#pragma once

#include "common/isa.h"
#include "inverse/params.h"

namespace sbc {

// Returns 0, or 1 + the place of a pivot that is not positive. The result does not depend on
// `threads`. Scratch memory: one tiled triangle, and two block columns of it.
int64_t inverse(const InverseParams& params, Isa isa, int threads);

}  // namespace sbc
