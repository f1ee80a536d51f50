// The order in which the weights that stay lower the loss of each row most.
#pragma once

#include "common/isa.h"
#include "obs_select/params.h"

namespace sbc {

// Scratch memory: W H, and d * num_kept elements per thread.
template <class T>
void obs_select(const ObsSelectParams<T>& params, Isa isa, int threads);

}  // namespace sbc
