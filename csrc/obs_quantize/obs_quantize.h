// GPTQ-style column sweep: round, prune by block, or both, with every column's error carried on.
#pragma once

#include "common/isa.h"
#include "obs_quantize/params.h"

namespace sbc {

template <class T>
void obs_quantize(const ObsQuantizeParams<T>& params, Isa isa, int threads);

}  // namespace sbc
