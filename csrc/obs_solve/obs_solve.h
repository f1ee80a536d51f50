// One small Cholesky solve a row, each on its own subset of one shared matrix.
#pragma once

#include "common/isa.h"
#include "obs_solve/params.h"

namespace sbc {

// Scratch: one tiled triangle of the largest subset a thread.
template <class T>
void obs_solve(const ObsSolveParams<T>& params, Isa isa, int threads);

}  // namespace sbc
