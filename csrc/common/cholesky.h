// Left-looking Cholesky factorisation, A = U'U, on a tiled triangle. A tile receives all of its
// updates in one visit, with the sums in registers: the triangle is read many times (once per tile
// row) but written once. A large one goes by blocks of tiles, whose operands stay in second-level
// cache. Included by *cpu.cpp files only.
#pragma once

#include "common/scalar_math.h"
#include "common/tiles.h"

namespace sbc {
namespace SBC_ISA {

// tile(it, jt) -= sum over kt in [first, it) of U(kt, it)' U(kt, jt)
template <class T>
static inline void update_tile(const TileTriangle<T>& a, int64_t it, int64_t jt,
                               int64_t first = 0) {
  update_block<T>(
      {it, it + 1}, {jt, jt + 1}, {first, it}, [&](int64_t i, int64_t j) { return a.tile(i, j); },
      [&](int64_t k, int64_t i) { return a.tile(k, i); },
      [&](int64_t k, int64_t j) { return a.tile(k, j); }, [=](int64_t, int64_t) { return first; });
}

// Subtracts from rows [b, b + kMicroRows) of x the contributions of the rows above them, by u.
template <class T>
static inline void update_rows(const T* u, T* x, int b) {
  micro_update<T>(x + b * kTile<T>, kTile<T>, b, 1, [=](int64_t, const T*& left, const T*& right) {
    left = u + b;
    right = x;
  });
}

// Factorises a diagonal tile in place. Returns -1, or the row whose pivot is not positive (or NaN).
// Entries below the diagonal are undefined afterwards.
template <class T>
static inline int factor_tile(T* u) {
  constexpr int tile = kTile<T>;
  for (int b = 0; b < tile; b += kMicroRows) {
    update_rows(u, u, b);
    for (int i = b; i < b + kMicroRows; ++i) {
      const T pivot = u[i * tile + i];
      if (!(pivot > T(0)) || pivot - pivot != T(0)) return i;
      const T scale = T(1) / square_root(pivot);
      for (int j = 0; j < tile; ++j) u[i * tile + j] *= scale;
      for (int k = i + 1; k < b + kMicroRows; ++k) {
        const T factor = u[i * tile + k];
        for (int j = 0; j < tile; ++j) u[k * tile + j] -= factor * u[i * tile + j];
      }
    }
  }
  return -1;
}

// x <- U^-T x for one tile of right-hand sides. This turns an updated tile into U(it, jt).
template <class T>
static inline void solve_tile(const T* u, T* x) {
  constexpr int tile = kTile<T>, lanes = kLanes<T>;
  for (int b = 0; b < tile; b += kMicroRows) {
    update_rows(u, x, b);
    Vector<T> rows[kMicroRows][kMicroVectors];
    T* block = x + b * tile;
#pragma GCC unroll 8
    for (int i = 0; i < kMicroRows; ++i) {
      const T scale = T(1) / u[(b + i) * tile + b + i];
#pragma GCC unroll 3
      for (int v = 0; v < kMicroVectors; ++v) {
        Vector<T> row = load<T>(block + i * tile + v * lanes);
#pragma GCC unroll 8
        for (int k = 0; k < i; ++k) row -= broadcast<T>(u[(b + k) * tile + b + i]) * rows[k][v];
        rows[i][v] = row * scale;
        store<T>(block + i * tile + v * lanes, rows[i][v]);
      }
    }
  }
}

// x <- U^-1 x for one tile of right-hand sides, given the transpose of U. Entries of that above the
// diagonal are not read.
template <class T>
static inline void solve_tile_backwards(const T* transposed, T* x) {
  constexpr int tile = kTile<T>, lanes = kLanes<T>;
  for (int b = tile - kMicroRows; b >= 0; b -= kMicroRows) {
    T* block = x + b * tile;
    micro_update<T>(block, tile, tile - kMicroRows - b, 1,
                    [=](int64_t, const T*& left, const T*& right) {
                      left = transposed + (b + kMicroRows) * tile + b;
                      right = block + kMicroRows * tile;
                    });
    for (int i = kMicroRows - 1; i >= 0; --i) {
      const T scale = T(1) / transposed[(b + i) * tile + b + i];
      for (int v = 0; v < kMicroVectors; ++v) {
        Vector<T> row = load<T>(block + i * tile + v * lanes);
        for (int k = i + 1; k < kMicroRows; ++k) {
          row -= broadcast<T>(transposed[(b + k) * tile + b + i]) *
                 load<T>(block + k * tile + v * lanes);
        }
        store<T>(block + i * tile + v * lanes, row * scale);
      }
    }
  }
}

}  // namespace SBC_ISA
}  // namespace sbc
