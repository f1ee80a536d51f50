// One row of obs_order, compiled once for each instruction set.
#pragma once

#include "common/isa.h"
#include "obs_order/params.h"

namespace sbc {

// places: [3 d + 1 + num_groups], scratch memory. On entry, the first d have the weight at each
// place: any permutation is valid, and the one sorted by score is the fastest.
#define SBC_DECLARE(isa)                                                                     \
  namespace isa {                                                                            \
  template <class T>                                                                         \
  int64_t order_scratch_elements(int64_t d);                                                 \
  template <class T>                                                                         \
  void order_row(const ObsOrderParams<T>& params, int64_t row, T* scratch, int64_t* places); \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
#undef SBC_DECLARE

}  // namespace sbc
