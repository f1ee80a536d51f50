// One large Cholesky factorisation, in float64 for a matrix of any type.
#pragma once

#include "common/isa.h"
#include "upper_factor/params.h"

namespace sbc {

// Returns 0, or 1 + the place (in perm) of a pivot that is not positive. The result does not depend
// on `threads`. Scratch memory: one tiled triangle of float64.
template <class T>
int64_t upper_factor(const UpperFactorParams<T>& params, Isa isa, int threads);

}  // namespace sbc
