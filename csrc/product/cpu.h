// The steps of a product, compiled once for each instruction set.
//
// Both operands are packed into panels as wide as a tile, [depth, side], of terms [first, first +
// depth). A block is a square of tiles of the result.
#pragma once

#include "common/isa.h"
#include "product/params.h"

namespace sbc {

// The packed operands, and where a block lies: tiles [i, i_end) by [j, j_end).
template <class T>
struct ProductBlock {
  const T *left, *right;  // of all panels
  int64_t first, depth;
  int64_t i, i_end, j, j_end;
};

#define SBC_DECLARE(isa)                                                                           \
  namespace isa {                                                                                  \
  template <class T>                                                                               \
  int64_t product_tile_side();                                                                     \
  template <class T>                                                                               \
  int64_t product_block_tiles();                                                                   \
  /* Packs columns from `first_column` on of matrix [.., columns], rows [first, first + depth). */ \
  template <class T>                                                                               \
  void pack_columns(const T* matrix, int64_t columns, int64_t first_column, int64_t first,         \
                    int64_t depth, T* panel);                                                      \
  /* Likewise rows from `first_row` on of matrix [rows, columns], columns [first, ..). */          \
  template <class T>                                                                               \
  void pack_rows(const T* matrix, int64_t rows, int64_t columns, int64_t first_row, int64_t first, \
                 int64_t depth, T* panel);                                                         \
  /* The first terms set the result, others are added. scratch: block_tiles^2 tiles. */            \
  template <class T>                                                                               \
  void multiply_block(const ProductParams<T>& params, const ProductBlock<T>& block, T* scratch);   \
  void add_square_block(const SquareParams& params, const ProductBlock<double>& block,             \
                        double* scratch);                                                          \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
#undef SBC_DECLARE

}  // namespace sbc
