#include "factor/factor.h"

#include <atomic>

#include "common/integers.h"
#include "common/threads.h"

namespace sbc {

FactorTiles factor_tiles(double* data, int64_t d, Isa isa, int threads) {
  const int64_t side = SBC_SELECT_ISA(isa, factor_tile_side);
  const int64_t largest = SBC_SELECT_ISA(isa, factor_block_tiles);
  const int64_t tiles = ceil_div(d, side);
  // At least four block rows for each thread, of at least 48 rows.
  const int64_t least = std::min(largest, ceil_div(48, side));
  const int64_t share = threads > 1 ? tiles / (4 * threads) : largest;
  return {data, d, tiles, std::max(least, std::min(largest, share))};
}

int64_t factor(const FactorTiles& a, Isa isa, int threads) {
  const auto update = SBC_SELECT_ISA(isa, update_factor_block);
  const auto factor_diagonal = SBC_SELECT_ISA(isa, factor_diagonal_block);
  const auto solve = SBC_SELECT_ISA(isa, solve_factor_block);
  const int64_t blocks = a.blocks();
  std::vector<std::pair<int64_t, int64_t>> tasks;
  for (int64_t row = 0; row < blocks; ++row) {
    for (int64_t column = row; column < blocks; ++column) tasks.emplace_back(row, column);
  }
  // Of each block column, how many rows are done. After a pivot that is not positive, the remaining
  // blocks are skipped.
  Milestones rows_of(blocks);
  std::atomic<int64_t> bad{-1};
  parallel_for(static_cast<int64_t>(tasks.size()), threads, [&](int64_t task, int) {
    const auto [row, column] = tasks[task];
    rows_of.wait(row, row);
    rows_of.wait(column, row);
    if (bad < 0) update(a, row, column);
    if (column > row) {
      rows_of.wait(row, row + 1);
      if (bad < 0) solve(a, row, column);
    } else if (bad < 0) {
      bad = factor_diagonal(a, row);
    }
    rows_of.advance(column);
  });
  return bad + 1;
}

}  // namespace sbc
