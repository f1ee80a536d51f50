#include "solve_positive/solve_positive.h"

#include "common/aligned.h"
#include "common/integers.h"
#include "common/threads.h"
#include "factor/factor.h"
#include "solve_positive/cpu.h"

namespace sbc {

int64_t solve_positive(const SolvePositiveParams& params, Isa isa, int threads) {
  const auto gather = SBC_SELECT_ISA(isa, gather_upper_row<double>);
  const auto forwards = SBC_SELECT_ISA(isa, substitute_forwards);
  const auto transpose = SBC_SELECT_ISA(isa, transpose_tile_row);
  const auto backwards = SBC_SELECT_ISA(isa, substitute_backwards);
  const double d = static_cast<double>(params.d), rows = static_cast<double>(params.rows);
  threads = useful_threads(d * d * (d / 6 + rows), threads);
  const AlignedArray<double> owner =
      aligned_array<double>(SBC_SELECT_ISA(isa, factor_elements)(params.d));
  FactorTiles a = factor_tiles(owner.get(), params.d, isa, threads);
  parallel_for(a.tiles, threads, [&](int64_t it, int) { gather(params.matrix, a, it); });
  if (const int64_t bad = factor(a, isa, threads)) return bad;

  // Several panels at a time share what is read of U.
  const int64_t panels = ceil_div(params.rows, SBC_SELECT_ISA(isa, factor_tile_side));
  const int64_t largest = SBC_SELECT_ISA(isa, factor_block_tiles);
  a.block_tiles = largest;  // the order of a sum depends on it on the way back
  const int64_t share = std::max<int64_t>(1, std::min(largest, ceil_div(panels, threads)));
  const int64_t tasks = ceil_div(panels, share);
  const int64_t elements = SBC_SELECT_ISA(isa, rhs_panel_elements)(a);
  const AlignedArray<double> packed = aligned_array<double>(panels * elements);
  const auto substitute = [&](auto step) {
    parallel_for(tasks, threads, [&](int64_t task, int) {
      const int64_t panel = task * share;
      step(params, a, panel, std::min(share, panels - panel), packed.get() + panel * elements);
    });
  };
  substitute(forwards);
  parallel_for(a.tiles, threads, [&](int64_t it, int) { transpose(a, it); });
  substitute(backwards);
  return 0;
}

}  // namespace sbc
