// Left-looking Cholesky, A = U'U, on a tiled triangle: a tile receives all its updates in one visit
// with the sums in registers, so the triangle is read depth times but written once. Included by
// cpu.cpp files only.
#pragma once

#include "common/scalar_math.h"
#include "common/tiles.h"

namespace sbc {
namespace SBC_ISA {

// tile(it, jt) -= sum over kt < it of U(kt, it)' U(kt, jt)
template <class T>
static inline void update_tile(const TileTriangle<T>& a, int64_t it, int64_t jt) {
  for (int r = 0; r < kTile<T>; r += kMicroRows) {
    micro_update<T>(a.tile(it, jt) + r * kTile<T>, kTile<T>, kTile<T>, it,
                    [=, &a](int64_t kt, const T*& left, const T*& right) {
                      left = a.tile(kt, it) + r;
                      right = a.tile(kt, jt);
                    });
  }
}

// The diagonal tile's own factor. Returns -1, or the row whose pivot is not positive (or NaN).
template <class T>
static inline int factor_tile(T* u) {
  constexpr int tile = kTile<T>;
  for (int i = 0; i < tile; ++i) {
    const T pivot = u[i * tile + i];
    if (!(pivot > T(0)) || pivot - pivot != T(0)) return i;
    const T scale = T(1) / square_root(pivot);
    for (int j = i; j < tile; ++j) u[i * tile + j] *= scale;
    for (int k = i + 1; k < tile; ++k) {
      const T factor = u[i * tile + k];
      for (int j = k; j < tile; ++j) u[k * tile + j] -= factor * u[i * tile + j];
    }
  }
  return -1;
}

// x <- U^-T x for one tile of right-hand sides: what makes U(it, jt) of an updated tile.
template <class T>
static inline void solve_tile(const T* u, T* x) {
  constexpr int tile = kTile<T>, vectors = kMicroVectors, lanes = kLanes<T>;
  for (int i = 0; i < tile; ++i) {
    Vector<T> sum[vectors];
    for (int v = 0; v < vectors; ++v) sum[v] = load<T>(x + i * tile + v * lanes);
    for (int k = 0; k < i; ++k) {
      const Vector<T> factor = broadcast<T>(u[k * tile + i]);
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) sum[v] -= factor * load<T>(x + k * tile + v * lanes);
    }
    const T scale = T(1) / u[i * tile + i];
    for (int v = 0; v < vectors; ++v) store<T>(x + i * tile + v * lanes, sum[v] * scale);
  }
}

}  // namespace SBC_ISA
}  // namespace sbc
