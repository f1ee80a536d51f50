// The order in which Optimal Brain Surgeon removes the weights of each row.
#pragma once

#include "common/isa.h"
#include "obs_order/params.h"

namespace sbc {

// Scratch memory: one tiled triangle of d * (d + tile) / 2 elements per thread.
template <class T>
void obs_order(const ObsOrderParams<T>& params, Isa isa, int threads);

}  // namespace sbc
