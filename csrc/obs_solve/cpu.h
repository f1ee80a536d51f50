// One row of obs_solve, compiled once for each instruction set.
#pragma once

#include "common/isa.h"
#include "obs_solve/params.h"

namespace sbc {

#define SBC_DECLARE(isa)                                                                     \
  namespace isa {                                                                            \
  template <class T>                                                                         \
  int64_t solve_scratch_elements(int64_t largest_subset);                                    \
  template <class T>                                                                         \
  void solve_row(const ObsSolveParams<T>& params, int64_t row, T* scratch, int32_t* subset); \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
#undef SBC_DECLARE

}  // namespace sbc
