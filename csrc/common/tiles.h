// Symmetric matrices as square tiles of their upper triangle, and the one inner loop that all dense
// work of this package goes through. Included by *cpu.cpp files only.
#pragma once

#include "common/simd.h"

namespace sbc {
namespace SBC_ISA {

// Side of a tile, in elements: three vectors (24 floats with AVX2, 48 with AVX-512). Tiles are
// contiguous and row-major. A tile is therefore storage, a packed right operand (its rows) and a
// packed left operand (kMicroRows of its columns) at the same time, and nothing is ever repacked.
template <class T>
constexpr int kTile = kMicroVectors * kLanes<T>;
template <class T>
constexpr int kTileElements = kTile<T> * kTile<T>;

template <class T>
static inline int64_t tile_count(int64_t d) {
  return (d + kTile<T> - 1) / kTile<T>;
}

// The upper triangle, one tile row after the other: (0,0) (0,1) .. (0,n-1) (1,1) ..
template <class T>
struct TileTriangle {
  T* data;
  int64_t tiles;  // along one side

  static int64_t elements(int64_t d) {
    const int64_t n = tile_count<T>(d);
    return n * (n + 1) / 2 * kTileElements<T>;
  }
  T* tile(int64_t row, int64_t column) const {
    return data + (row * tiles - row * (row - 1) / 2 + column - row) * kTileElements<T>;
  }
};

// Number of tiles of each operand that first-level cache holds together with the tile they update.
constexpr int kDepthTiles = kVectorBytes == 64 ? 4 : kVectorBytes == 32 ? 8 : 24;

// Tiles along the side of a block of 192 doubles, which second-level cache holds with one operand.
constexpr int kBlockTiles = 2 * kDepthTiles;

// Whether a sum goes on from the entry that it changes, or begins at zero and is added at its end.
// The latter rounds less where the terms are many.
enum class Sum { continued, fresh };

// c[0..kMicroRows)[0..kTile) -= sum over segments of left' right, where segment(s, left, right)
// sets `left` [depth, left_stride] and `right` [depth, kTile] to the operands of segment s. The
// accumulators stay in registers for the whole sum.
template <class T, Sum kind = Sum::continued, class Segment>
static inline __attribute__((always_inline)) void micro_update(T* c, int64_t left_stride,
                                                               int64_t depth, int64_t segments,
                                                               Segment segment) {
  typedef Vector<T> V;
  V sum[kMicroRows][kMicroVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kMicroRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kMicroVectors; ++v) {
      sum[r][v] = kind == Sum::fresh ? V{} : load<T>(c + r * kTile<T> + v * kLanes<T>);
    }
  }
  for (int64_t s = 0; s < segments; ++s) {
    const T *left, *right;
    segment(s, left, right);
    for (int64_t k = 0; k < depth; ++k, left += left_stride, right += kTile<T>) {
      V row[kMicroVectors];
#pragma GCC unroll 3
      for (int v = 0; v < kMicroVectors; ++v) row[v] = load<T>(right + v * kLanes<T>);
#pragma GCC unroll 8
      for (int r = 0; r < kMicroRows; ++r) {
        const V factor = broadcast<T>(left[r]);
#pragma GCC unroll 3
        for (int v = 0; v < kMicroVectors; ++v) sum[r][v] -= factor * row[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kMicroRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kMicroVectors; ++v) {
      T* to = c + r * kTile<T> + v * kLanes<T>;
      store<T>(to, kind == Sum::fresh ? load<T>(to) + sum[r][v] : sum[r][v]);
    }
  }
}

// A span of tiles.
struct Tiles {
  int64_t first, end;
};

// For every i and j in their spans: tile(i, j) -= sum over k of left(k, i)' right(k, j), where k
// runs through [from(i, j), k.end). The functions return tiles; from() is at least k.first. The
// order of a sum's terms does not depend on the spans.
template <class T, class Tile, class Left, class Right, class From>
static inline void update_block(Tiles i, Tiles j, Tiles k, Tile tile, Left left, Right right,
                                From from) {
  for (int64_t kt = k.first; kt < k.end; kt += kDepthTiles) {
    const int64_t end = k.end < kt + kDepthTiles ? k.end : kt + kDepthTiles;
    for (int64_t jt = j.first; jt < j.end; ++jt) {
      for (int64_t it = i.first; it < i.end; ++it) {
        const int64_t least = from(it, jt), first = least > kt ? least : kt;
        if (first >= end) continue;
        T* c = tile(it, jt);
        for (int r = 0; r < kTile<T>; r += kMicroRows) {
          micro_update<T>(c + r * kTile<T>, kTile<T>, kTile<T>, end - first,
                          [&](int64_t s, const T*& a, const T*& b) {
                            a = left(first + s, it) + r;
                            b = right(first + s, jt);
                          });
        }
      }
    }
  }
}

// One tile: c -= left' right, both [depth, kTile].
template <class T>
static inline void tile_update(T* c, const T* left, const T* right, int64_t depth) {
  static_assert(kTile<T> % kMicroRows == 0, "a tile is a whole number of micro-tiles");
  for (int r = 0; r < kTile<T>; r += kMicroRows) {
    micro_update<T>(c + r * kTile<T>, kTile<T>, depth, 1, [=](int64_t, const T*& l, const T*& p) {
      l = left + r;
      p = right;
    });
  }
}

}  // namespace SBC_ISA
}  // namespace sbc
