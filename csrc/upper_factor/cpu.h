// The steps of the factorisation, compiled once for each instruction set.
//
// With rows and columns reversed, matrix[perm, perm] = R R' becomes A = U'U with U upper triangular
// and U(i, j) = R(d - 1 - j, d - 1 - i).
#pragma once

#include "common/isa.h"
#include "upper_factor/params.h"

namespace sbc {

#define SBC_DECLARE(isa)                                                                        \
  namespace isa {                                                                               \
  int64_t factor_tile_rows(int64_t d);                                                          \
  int64_t factor_scratch_elements(int64_t d);                                                   \
  template <class T>                                                                            \
  void gather_tile_row(const UpperFactorParams<T>& params, int64_t it, double* scratch);        \
  /* Returns -1, or the row of a bad pivot. */                                                  \
  int64_t factor_diagonal_tile(int64_t d, int64_t it, double* scratch);                         \
  void factor_row_tile(int64_t d, int64_t it, int64_t jt, double* scratch);                     \
  template <class T>                                                                            \
  void scatter_tile_row(const UpperFactorParams<T>& params, int64_t it, const double* scratch); \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
#undef SBC_DECLARE

}  // namespace sbc
