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
  // Even steps update a block row and factor its diagonal block, odd ones solve for its other
  // blocks. After a pivot that is not positive, the remaining blocks are skipped.
  std::atomic<int64_t> bad{-1};
  parallel_steps(
      2 * blocks, threads,
      [&](int64_t step) { return bad >= 0 ? 0 : blocks - step / 2 - step % 2; },
      [&](int64_t step, int64_t index) {
        const int64_t row = step / 2, column = row + index + step % 2;
        if (step % 2 == 1) return solve(a, row, column);
        update(a, row, column);
        if (index == 0) bad = factor_diagonal(a, row);
      });
  return bad + 1;
}

}  // namespace sbc
