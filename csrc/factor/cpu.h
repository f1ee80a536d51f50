// The steps of a large Cholesky factorisation, compiled once for each instruction set.
//
// A = U'U of float64 lies in a triangle of tiles (common/tiles.h) and goes by block rows: a block
// has block_tiles x block_tiles tiles.
#pragma once

#include "common/isa.h"

namespace sbc {

// A matrix as a triangle of tiles. Its padding is an identity.
struct FactorTiles {
  double* data;   // factor_elements(d)
  int64_t d;      // of the matrix
  int64_t tiles;  // factor_tile_count(d)
  int64_t block_tiles;

  int64_t blocks() const { return (tiles + block_tiles - 1) / block_tiles; }
};

#define SBC_DECLARE(isa)                                                                  \
  namespace isa {                                                                         \
  extern const int64_t factor_tile_side, factor_block_tiles;                              \
  int64_t factor_elements(int64_t d);                                                     \
  /* Fills tile row `it` with matrix[i, j] of the upper triangle. */                      \
  template <class T>                                                                      \
  void gather_upper_row(const T* matrix, const FactorTiles& a, int64_t it);               \
  /* Subtracts from a block what the block rows above it contribute. */                   \
  void update_factor_block(const FactorTiles& a, int64_t row, int64_t column);            \
  /* Factors an updated diagonal block. Returns -1, or the row of a bad pivot. */         \
  int64_t factor_diagonal_block(const FactorTiles& a, int64_t row);                       \
  /* Turns an updated block to the right of a factored diagonal one into a block of U. */ \
  void solve_factor_block(const FactorTiles& a, int64_t row, int64_t column);             \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
#undef SBC_DECLARE

}  // namespace sbc
