// One row of obs_select, compiled once for each instruction set.
#pragma once

#include "common/isa.h"
#include "obs_select/params.h"

namespace sbc {

// gradient: [d], the row of W H. left: [num_groups], scratch memory.
#define SBC_DECLARE(isa)                                                                        \
  namespace isa {                                                                               \
  template <class T>                                                                            \
  int64_t select_scratch_elements(int64_t d, int64_t num_kept);                                 \
  template <class T>                                                                            \
  void select_row(const ObsSelectParams<T>& params, int64_t row, const T* gradient, T* scratch, \
                  int64_t* left);                                                               \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
#undef SBC_DECLARE

}  // namespace sbc
