// One large Cholesky factorisation in float64, whatever the matrix's own type.
#pragma once

#include "common/isa.h"
#include "upper_factor/params.h"

namespace sbc {

// Returns 0, or 1 + the place (in perm) of a pivot that is not positive. The answer does not depend
// on `threads`. Scratch: one tiled triangle of float64.
template <class T>
int64_t upper_factor(const UpperFactorParams<T>& params, Isa isa, int threads);

}  // namespace sbc
