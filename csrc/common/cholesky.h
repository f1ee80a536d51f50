// Left-looking Cholesky factorisation, A = U'U, on a tiled triangle. A tile receives all of its
// updates in one visit, with the sums in registers: the triangle is read many times (once per tile
// row) but written once. Included by *cpu.cpp files only.
#pragma once

#include "common/scalar_math.h"
#include "common/tiles.h"

namespace sbc {
namespace SBC_ISA {

// Number of tiles of each operand that first-level cache holds together with the tile they update.
constexpr int kDepthTiles = kVectorBytes == 64 ? 4 : 8;

// tile(it, jt) -= sum over kt < it of U(kt, it)' U(kt, jt)
template <class T>
static inline void update_tile(const TileTriangle<T>& a, int64_t it, int64_t jt) {
  for (int64_t first = 0; first < it; first += kDepthTiles) {
    const int64_t depth = it - first < kDepthTiles ? it - first : kDepthTiles;
    for (int r = 0; r < kTile<T>; r += kMicroRows) {
      micro_update<T>(a.tile(it, jt) + r * kTile<T>, kTile<T>, kTile<T>, depth,
                      [=, &a](int64_t kt, const T*& left, const T*& right) {
                        left = a.tile(first + kt, it) + r;
                        right = a.tile(first + kt, jt);
                      });
    }
  }
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

}  // namespace SBC_ISA
}  // namespace sbc
