// What surrounds the factorisation (factor/), compiled once for each instruction set.
//
// With rows and columns reversed, matrix[perm, perm] = R R' becomes A = U'U with U upper triangular
// and U(i, j) = R(d - 1 - j, d - 1 - i).
#pragma once

#include "common/isa.h"
#include "upper_factor/params.h"

namespace sbc {

#define SBC_DECLARE(isa)                                                                        \
  namespace isa {                                                                               \
  template <class T>                                                                            \
  void gather_tile_row(const UpperFactorParams<T>& params, int64_t it, double* scratch);        \
  template <class T>                                                                            \
  void scatter_tile_row(const UpperFactorParams<T>& params, int64_t it, const double* scratch); \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
#undef SBC_DECLARE

}  // namespace sbc
