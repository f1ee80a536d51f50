#include "factor/cpu.h"

#include "common/cholesky.h"
#include "factor/blocks.h"

namespace sbc {
namespace SBC_ISA {

extern const int64_t factor_tile_side = kTile<double>, factor_block_tiles = kBlockTiles;

int64_t factor_elements(int64_t d) { return TileTriangle<double>::elements(d); }

template <class T>
void gather_upper_row(const T* matrix, const FactorTiles& a, int64_t it) {
  constexpr int side = kTile<double>;
  const TileTriangle<double> to{a.data, a.tiles};
  for (int64_t jt = it; jt < a.tiles; ++jt) {
    double* tile = to.tile(it, jt);
    const int64_t first = jt * side, live = a.d - first < side ? a.d - first : side;
    for (int64_t i = it * side; i < (it + 1) * side; ++i, tile += side) {
      const T* from = i < a.d ? matrix + i * a.d + first : nullptr;
      for (int64_t j = 0; j < side; ++j) {
        tile[j] = i < a.d && j < live ? static_cast<double>(from[j]) : double(i == first + j);
      }
    }
  }
}

void update_factor_block(const FactorTiles& a, int64_t row, int64_t column) {
  const TileTriangle<double> u{a.data, a.tiles};
  const Tiles rows = block_span(a, row), columns = block_span(a, column);
  update_block<double>(
      rows, columns, {0, rows.first}, [&](int64_t i, int64_t j) { return u.tile(i, j); },
      [&](int64_t k, int64_t i) { return u.tile(k, i); },
      [&](int64_t k, int64_t j) { return u.tile(k, j); },
      [&](int64_t i, int64_t j) { return i <= j ? 0 : rows.first; });
}

int64_t factor_diagonal_block(const FactorTiles& a, int64_t row) {
  const TileTriangle<double> u{a.data, a.tiles};
  const Tiles span = block_span(a, row);
  for (int64_t it = span.first; it < span.end; ++it) {
    update_tile(u, it, it, span.first);
    const int bad = factor_tile(u.tile(it, it));
    if (bad >= 0) return it * kTile<double> + bad;
    for (int64_t jt = it + 1; jt < span.end; ++jt) {
      update_tile(u, it, jt, span.first);
      solve_tile(u.tile(it, it), u.tile(it, jt));
    }
  }
  return -1;
}

void solve_factor_block(const FactorTiles& a, int64_t row, int64_t column) {
  const TileTriangle<double> u{a.data, a.tiles};
  const Tiles rows = block_span(a, row), columns = block_span(a, column);
  for (int64_t jt = columns.first; jt < columns.end; ++jt) {
    for (int64_t it = rows.first; it < rows.end; ++it) {
      update_tile(u, it, jt, rows.first);
      solve_tile(u.tile(it, it), u.tile(it, jt));
    }
  }
}

template void gather_upper_row<float>(const float*, const FactorTiles&, int64_t);
template void gather_upper_row<double>(const double*, const FactorTiles&, int64_t);

}  // namespace SBC_ISA
}  // namespace sbc
