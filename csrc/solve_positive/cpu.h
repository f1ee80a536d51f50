// The steps that follow the factorisation A = U'U, compiled once for each instruction set.
//
// A panel has as many right-hand sides as a tile has columns, [padded d, side].
#pragma once

#include "factor/cpu.h"
#include "solve_positive/params.h"

namespace sbc {

#define SBC_DECLARE(isa)                                                                           \
  namespace isa {                                                                                  \
  int64_t rhs_panel_elements(const FactorTiles& a);                                                \
  /* Packs `panels` panels from the right-hand side `panel * side` on, and solves U'x = b. */      \
  void substitute_forwards(const SolvePositiveParams& params, const FactorTiles& a, int64_t panel, \
                           int64_t panels, double* x);                                             \
  /* Transposes the tiles of a tile row in place. */                                               \
  void transpose_tile_row(const FactorTiles& a, int64_t it);                                       \
  /* Solves U x = b with transposed tiles, and writes the solutions. */                            \
  void substitute_backwards(const SolvePositiveParams& params, const FactorTiles& a,               \
                            int64_t panel, int64_t panels, double* x);                             \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
#undef SBC_DECLARE

}  // namespace sbc
