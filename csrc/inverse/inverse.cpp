#include "inverse/inverse.h"

#include "common/aligned.h"
#include "common/threads.h"
#include "factor/factor.h"
#include "inverse/cpu.h"

namespace sbc {

int64_t inverse(const InverseParams& params, Isa isa, int threads) {
  const auto gather = SBC_SELECT_ISA(isa, gather_upper_row<double>);
  const auto copy_column = SBC_SELECT_ISA(isa, copy_factor_column);
  const auto invert = SBC_SELECT_ISA(isa, invert_factor_block);
  const auto multiply = SBC_SELECT_ISA(isa, multiply_inverse_block);
  const double d = static_cast<double>(params.d);
  threads = useful_threads(d * d * d / 2, threads);
  const AlignedArray<double> owner =
      aligned_array<double>(SBC_SELECT_ISA(isa, factor_elements)(params.d));
  const FactorTiles a = factor_tiles(owner.get(), params.d, isa, threads);
  parallel_for(a.tiles, threads, [&](int64_t it, int) { gather(params.matrix, a, it); });
  if (const int64_t bad = factor(a, isa, threads)) return bad;

  const int64_t blocks = a.blocks();
  std::vector<std::pair<int64_t, int64_t>> pairs;  // the longest sums of Y'Y first
  for (int64_t column = 0; column < blocks; ++column) {
    for (int64_t row = 0; row <= column; ++row) pairs.emplace_back(row, column);
  }
  {
    // Pair (i, j) stands for block (j, i) of Y here. The first one of a block row copies the block
    // column of U that the row overwrites; two copies take turns.
    const int64_t elements = SBC_SELECT_ISA(isa, inverse_column_elements)(a);
    const AlignedArray<double> copies = aligned_array<double>(2 * elements);
    Milestones rows_of(blocks), blocks_of(blocks), copied(blocks);  // by column, by row, by row
    parallel_for(static_cast<int64_t>(pairs.size()), threads, [&](int64_t task, int) {
      const auto [column, row] = pairs[task];
      double* copy = copies.get() + row % 2 * elements;
      if (column == 0) {
        if (row >= 2) blocks_of.wait(row - 2, row - 1);
        copy_column(a, row, copy);
        copied.advance(row);
      }
      copied.wait(row, 1);
      if (row > column) rows_of.wait(column, row - column);
      invert(a, row, column, copy);
      rows_of.advance(column);
      blocks_of.advance(row);
    });
  }

  const int64_t elements = SBC_SELECT_ISA(isa, inverse_block_elements)(a);
  const AlignedArray<double> scratch = aligned_array<double>(threads * elements);
  parallel_for(static_cast<int64_t>(pairs.size()), threads, [&](int64_t task, int worker) {
    multiply(params, a, pairs[task].first, pairs[task].second, scratch.get() + worker * elements);
  });
  return 0;
}

}  // namespace sbc
