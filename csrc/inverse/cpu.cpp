#include "inverse/cpu.h"

#include "common/cholesky.h"
#include "factor/blocks.h"

namespace sbc {
namespace SBC_ISA {
namespace {

constexpr int kSide = kTile<double>;
constexpr int64_t kElements = kTileElements<double>;

}  // namespace

int64_t inverse_column_elements(const FactorTiles& a) {
  return a.tiles * a.block_tiles * kElements;
}
int64_t inverse_block_elements(const FactorTiles& a) {
  return a.block_tiles * a.block_tiles * kElements;
}

void copy_factor_column(const FactorTiles& a, int64_t column, double* copy) {
  const TileTriangle<double> u{a.data, a.tiles};
  const Tiles span = block_span(a, column);
  for (int64_t jt = span.first; jt < span.end; ++jt, copy += a.tiles * kElements) {
    for (int64_t kt = 0; kt <= jt; ++kt) {
      __builtin_memcpy(copy + kt * kElements, u.tile(kt, jt), kElements * sizeof(double));
    }
  }
}

void invert_factor_block(const FactorTiles& a, int64_t row, int64_t column, const double* copy) {
  const TileTriangle<double> y{a.data, a.tiles};
  const Tiles rows = block_span(a, row), columns = block_span(a, column);
  const auto u = [&](int64_t k, int64_t j) {
    return copy + ((j - rows.first) * a.tiles + k) * kElements;
  };
  for (int64_t it = columns.first; it < columns.end; ++it) {
    for (int64_t jt = it > rows.first ? it : rows.first; jt < rows.end; ++jt) {
      double* tile = y.tile(it, jt);
      __builtin_memset(tile, 0, kElements * sizeof(double));
      for (int i = 0; it == jt && i < kSide; ++i) tile[i * kSide + i] = 1;
    }
  }
  const auto sum = [&](Tiles j, Tiles i, Tiles k) {
    update_block<double>(
        j, i, k, [&](int64_t jt, int64_t it) { return y.tile(it, jt); }, u,
        [&](int64_t kt, int64_t it) { return y.tile(it, kt); },
        [&](int64_t, int64_t it) { return it > k.first ? it : k.first; });
  };
  if (column < row) sum(rows, columns, {columns.first, rows.first});
  for (int64_t it = columns.first; it < columns.end; ++it) {
    for (int64_t jt = it > rows.first ? it : rows.first; jt < rows.end; ++jt) {
      sum({jt, jt + 1}, {it, it + 1}, {rows.first, jt});
      solve_tile(u(jt, jt), y.tile(it, jt));
    }
  }
}

void multiply_inverse_block(const InverseParams& params, const FactorTiles& a, int64_t row,
                            int64_t column, double* scratch) {
  const TileTriangle<double> y{a.data, a.tiles};
  const Tiles rows = block_span(a, row), columns = block_span(a, column);
  __builtin_memset(scratch, 0, inverse_block_elements(a) * sizeof(double));
  const auto negated = [&](int64_t it, int64_t jt) {
    return scratch + ((it - rows.first) * a.block_tiles + jt - columns.first) * kElements;
  };
  update_block<double>(
      rows, columns, {columns.first, a.tiles}, negated,
      [&](int64_t kt, int64_t it) { return y.tile(it, kt); },
      [&](int64_t kt, int64_t jt) { return y.tile(jt, kt); },
      [&](int64_t it, int64_t jt) { return it <= jt ? jt : a.tiles; });
  const int64_t d = params.d;
  for (int64_t it = rows.first; it < rows.end; ++it) {
    for (int64_t jt = it > columns.first ? it : columns.first; jt < columns.end; ++jt) {
      const double* tile = negated(it, jt);
      const int64_t i0 = it * kSide, j0 = jt * kSide;
      const int64_t height = d - i0 < kSide ? d - i0 : kSide,
                    width = d - j0 < kSide ? d - j0 : kSide;
      for (int64_t i = 0; i < height; ++i) {
        double* to = params.inverse + (i0 + i) * d + j0;
        for (int64_t j = it == jt ? i : 0; j < width; ++j) to[j] = -tile[i * kSide + j];
      }
      for (int64_t j = 0; j < width; ++j) {
        double* to = params.inverse + (j0 + j) * d + i0;
        const int64_t end = it == jt ? j : height;
        for (int64_t i = 0; i < end; ++i) to[i] = -tile[i * kSide + j];
      }
    }
  }
}

}  // namespace SBC_ISA
}  // namespace sbc
