#include "product/cpu.h"

#include "common/tiles.h"

namespace sbc {
namespace SBC_ISA {
namespace {

constexpr int64_t kDepth = kDepthTiles * kTile<double>;

// Tile (it, jt) of the block, negated.
template <class T>
T* tile_of(const ProductBlock<T>& block, T* scratch, int64_t it, int64_t jt) {
  return scratch + ((it - block.i) * (block.j_end - block.j) + jt - block.j) * kTileElements<T>;
}

// Sums are taken afresh every kDepth terms. Only the first `rows` rows of the result, and with
// `upper` only tiles that are not below the diagonal.
template <class T>
void multiply(const ProductBlock<T>& block, int64_t rows, bool upper, T* scratch) {
  __builtin_memset(
      scratch, 0, (block.i_end - block.i) * (block.j_end - block.j) * kTileElements<T> * sizeof(T));
  for (int64_t k = 0; k < block.depth; k += kDepth) {
    const int64_t depth = block.depth - k < kDepth ? block.depth - k : kDepth;
    for (int64_t jt = block.j; jt < block.j_end; ++jt) {
      const T* right = block.right + (jt * block.depth + k) * kTile<T>;
      for (int64_t it = block.i; it < block.i_end && !(upper && it > jt); ++it) {
        const T* left = block.left + (it * block.depth + k) * kTile<T>;
        T* tile = tile_of(block, scratch, it, jt);
        for (int r = 0; r < kTile<T> && it * kTile<T> + r < rows; r += kMicroRows) {
          micro_update<T, Sum::fresh>(tile + r * kTile<T>, kTile<T>, depth, 1,
                                      [=](int64_t, const T*& a, const T*& b) {
                                        a = left + r;
                                        b = right;
                                      });
        }
      }
    }
  }
}

template <class T>
int64_t live_part(int64_t size, int64_t tile) {
  const int64_t left = size - tile * kTile<T>;
  return left < kTile<T> ? left : kTile<T>;
}

}  // namespace

template <class T>
int64_t product_tile_side() {
  return kTile<T>;
}

template <class T>
int64_t product_block_tiles() {
  return kBlockTiles * static_cast<int64_t>(sizeof(T)) / 8;
}

template <class T>
void pack_columns(const T* matrix, int64_t columns, int64_t first_column, int64_t first,
                  int64_t depth, T* panel) {
  constexpr int side = kTile<T>;
  const int64_t live = live_part<T>(columns - first_column, 0);
  const T* from = matrix + first * columns + first_column;
  for (int64_t k = 0; k < depth; ++k, from += columns, panel += side) {
    if (live == side) {
      for (int v = 0; v < kMicroVectors; ++v) {
        store<T>(panel + v * kLanes<T>, load<T>(from + v * kLanes<T>));
      }
      continue;
    }
    for (int64_t j = 0; j < side; ++j) panel[j] = j < live ? from[j] : T(0);
  }
}

template <class T>
void pack_rows(const T* matrix, int64_t rows, int64_t columns, int64_t first_row, int64_t first,
               int64_t depth, T* panel) {
  constexpr int side = kTile<T>;
  const int64_t live = live_part<T>(rows - first_row, 0);
  for (int64_t k = 0; k < depth; k += 64) {  // a strip of the panel stays in first-level cache
    const int64_t end = k + 64 < depth ? k + 64 : depth;
    for (int64_t i = 0; i < side; ++i) {
      const T* from = matrix + (first_row + i) * columns + first;
      for (int64_t at = k; at < end; ++at) panel[at * side + i] = i < live ? from[at] : T(0);
    }
  }
}

template <class T>
void multiply_block(const ProductParams<T>& params, const ProductBlock<T>& block, T* scratch) {
  constexpr int side = kTile<T>;
  multiply(block, params.m, false, scratch);
  for (int64_t it = block.i; it < block.i_end; ++it) {
    for (int64_t jt = block.j; jt < block.j_end; ++jt) {
      const T* tile = tile_of(block, scratch, it, jt);
      const int64_t height = live_part<T>(params.m, it), width = live_part<T>(params.n, jt);
      T* out = params.out + it * side * params.n + jt * side;
      for (int64_t i = 0; i < height; ++i, out += params.n, tile += side) {
        if (block.first == 0) {
          for (int64_t j = 0; j < width; ++j) out[j] = -tile[j];
        } else {
          for (int64_t j = 0; j < width; ++j) out[j] -= tile[j];
        }
      }
    }
  }
}

void add_square_block(const SquareParams& params, const ProductBlock<double>& block,
                      double* scratch) {
  constexpr int side = kTile<double>;
  const int64_t d = params.d;
  multiply(block, d, true, scratch);
  for (int64_t it = block.i; it < block.i_end; ++it) {
    for (int64_t jt = it > block.j ? it : block.j; jt < block.j_end; ++jt) {
      double* tile = tile_of(block, scratch, it, jt);
      const int64_t height = live_part<double>(d, it), width = live_part<double>(d, jt);
      for (int64_t i = 0; i < height; ++i) {
        double* upper = params.total + (it * side + i) * d + jt * side;
        for (int64_t j = it == jt ? i : 0; j < width; ++j) {
          tile[i * side + j] = upper[j] -= tile[i * side + j];
        }
      }
      for (int64_t j = 0; j < width; ++j) {
        double* lower = params.total + (jt * side + j) * d + it * side;
        const int64_t end = it == jt ? j : height;
        for (int64_t i = 0; i < end; ++i) lower[i] = tile[i * side + j];
      }
    }
  }
}

#define SBC_INSTANTIATE(T)                                                               \
  template int64_t product_tile_side<T>();                                               \
  template int64_t product_block_tiles<T>();                                             \
  template void pack_columns<T>(const T*, int64_t, int64_t, int64_t, int64_t, T*);       \
  template void pack_rows<T>(const T*, int64_t, int64_t, int64_t, int64_t, int64_t, T*); \
  template void multiply_block<T>(const ProductParams<T>&, const ProductBlock<T>&, T*);
SBC_INSTANTIATE(float)
SBC_INSTANTIATE(double)
#undef SBC_INSTANTIATE

}  // namespace SBC_ISA
}  // namespace sbc
