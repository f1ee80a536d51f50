// The steps that follow the factorisation A = U'U, compiled once for each instruction set.
//
// Y = U^-T replaces U, block row by block row: Y(j, i) = U(j, j)^-T (1(j, i) - sum over k < j of
// U(k, j)' Y(k, i)). Then A^-1 = Y'Y. Tile (i, k) of the triangle first holds U(i, k) and then
// Y(k, i), so that a sum over k runs through memory; the block column of U that the new row of Y
// overwrites is copied before.
#pragma once

#include "factor/cpu.h"
#include "inverse/params.h"

namespace sbc {

#define SBC_DECLARE(isa)                                                                           \
  namespace isa {                                                                                  \
  int64_t inverse_column_elements(const FactorTiles& a);                                           \
  int64_t inverse_block_elements(const FactorTiles& a);                                            \
  /* Copies blocks (row, column) of U, row = 0 .. column, to `copy`. */                            \
  void copy_factor_column(const FactorTiles& a, int64_t column, double* copy);                     \
  /* Replaces block (column, row) of U by block (row, column) of Y. */                             \
  void invert_factor_block(const FactorTiles& a, int64_t row, int64_t column, const double* copy); \
  /* Writes block (row, column) of Y'Y, and its mirror image. */                                   \
  void multiply_inverse_block(const InverseParams& params, const FactorTiles& a, int64_t row,      \
                              int64_t column, double* scratch);                                    \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
#undef SBC_DECLARE

}  // namespace sbc
