#include "solve_positive/cpu.h"

#include "common/cholesky.h"
#include "factor/blocks.h"

namespace sbc {
namespace SBC_ISA {
namespace {

constexpr int kSide = kTile<double>;
constexpr int64_t kElements = kTileElements<double>;

// Rows `rows` of all panels minus what the rows `from` contribute, by tiles u(k, i).
template <class U>
void update_rows_of(const FactorTiles& a, Tiles rows, int64_t panels, Tiles from, U u, double* x) {
  const auto tile = [=, &a](int64_t i, int64_t p) { return x + (p * a.tiles + i) * kElements; };
  update_block<double>(rows, {0, panels}, from, tile, u, tile,
                       [&](int64_t, int64_t) { return from.first; });
}

}  // namespace

int64_t rhs_panel_elements(const FactorTiles& a) { return a.tiles * kElements; }

void substitute_forwards(const SolvePositiveParams& params, const FactorTiles& a, int64_t panel,
                         int64_t panels, double* x) {
  const int64_t d = params.d;
  for (int64_t p = 0; p < panels; ++p) {
    double* to = x + p * a.tiles * kElements;
    for (int64_t c = 0; c < kSide; ++c) {
      const int64_t row = (panel + p) * kSide + c, live = row < params.rows ? d : 0;
      for (int64_t i = 0; i < live; ++i) to[i * kSide + c] = params.rhs[row * d + i];
      for (int64_t i = live; i < a.tiles * kSide; ++i) to[i * kSide + c] = 0;
    }
  }
  const TileTriangle<double> triangle{a.data, a.tiles};
  const auto u = [&](int64_t k, int64_t i) { return triangle.tile(k, i); };
  for (int64_t block = 0; block < a.blocks(); ++block) {
    const Tiles span = block_span(a, block);
    update_rows_of(a, span, panels, {0, span.first}, u, x);
    for (int64_t it = span.first; it < span.end; ++it) {
      update_rows_of(a, {it, it + 1}, panels, {span.first, it}, u, x);
      for (int64_t p = 0; p < panels; ++p) {
        solve_tile(triangle.tile(it, it), x + (p * a.tiles + it) * kElements);
      }
    }
  }
}

void transpose_tile_row(const FactorTiles& a, int64_t it) {
  const TileTriangle<double> triangle{a.data, a.tiles};
  for (int64_t jt = it; jt < a.tiles; ++jt) {
    double* tile = triangle.tile(it, jt);
    for (int i = 0; i < kSide; ++i) {
      for (int j = i + 1; j < kSide; ++j) {
        const double above = tile[i * kSide + j];
        tile[i * kSide + j] = tile[j * kSide + i];
        tile[j * kSide + i] = above;
      }
    }
  }
}

void substitute_backwards(const SolvePositiveParams& params, const FactorTiles& a, int64_t panel,
                          int64_t panels, double* x) {
  const TileTriangle<double> triangle{a.data, a.tiles};
  const auto u = [&](int64_t k, int64_t i) { return triangle.tile(i, k); };
  for (int64_t block = a.blocks() - 1; block >= 0; --block) {
    const Tiles span = block_span(a, block);
    update_rows_of(a, span, panels, {span.end, a.tiles}, u, x);
    for (int64_t it = span.end - 1; it >= span.first; --it) {
      update_rows_of(a, {it, it + 1}, panels, {it + 1, span.end}, u, x);
      for (int64_t p = 0; p < panels; ++p) {
        solve_tile_backwards(triangle.tile(it, it), x + (p * a.tiles + it) * kElements);
      }
    }
  }
  const int64_t d = params.d;
  for (int64_t p = 0; p < panels; ++p) {
    const double* from = x + p * a.tiles * kElements;
    for (int64_t c = 0; c < kSide && (panel + p) * kSide + c < params.rows; ++c) {
      double* to = params.solution + ((panel + p) * kSide + c) * d;
      for (int64_t i = 0; i < d; ++i) to[i] = from[i * kSide + c];
    }
  }
}

}  // namespace SBC_ISA
}  // namespace sbc
