// One small Cholesky solve per row, each on a subset of one shared matrix.
#pragma once

#include "common/isa.h"
#include "obs_solve/params.h"

namespace sbc {

// Scratch memory: one tiled triangle of the largest subset per thread.
template <class T>
void obs_solve(const ObsSolveParams<T>& params, Isa isa, int threads);

}  // namespace sbc
