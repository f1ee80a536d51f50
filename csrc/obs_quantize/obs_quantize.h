// GPTQ-style column sweep. It rounds, prunes block by block, or both; later columns compensate for
// the error of each column.
#pragma once

#include "common/isa.h"
#include "obs_quantize/params.h"

namespace sbc {

template <class T>
void obs_quantize(const ObsQuantizeParams<T>& params, Isa isa, int threads);

}  // namespace sbc
