#include "upper_factor/upper_factor.h"

#include "common/aligned.h"
#include "common/threads.h"
#include "upper_factor/cpu.h"

namespace sbc {

template <class T>
int64_t upper_factor(const UpperFactorParams<T>& params, Isa isa, int threads) {
  const auto factor_diagonal_tile = SBC_SELECT_ISA(isa, factor_diagonal_tile);
  const auto factor_row_tile = SBC_SELECT_ISA(isa, factor_row_tile);
  const auto gather_tile_row = SBC_SELECT_ISA(isa, gather_tile_row<T>);
  const auto scatter_tile_row = SBC_SELECT_ISA(isa, scatter_tile_row<T>);
  const int64_t d = params.d, tiles = SBC_SELECT_ISA(isa, factor_tile_rows)(d);
  const AlignedArray<double> owner =
      aligned_array<double>(SBC_SELECT_ISA(isa, factor_scratch_elements)(d));
  double* scratch = owner.get();

  parallel_for(tiles, threads, [&](int64_t it, int) { gather_tile_row(params, it, scratch); });
  // Even steps factorise a diagonal tile, odd ones the rest of its tile row. After a pivot that is
  // not positive, the remaining tiles are skipped.
  int64_t bad = -1;
  parallel_steps(
      2 * tiles, threads,
      [&](int64_t step) { return step % 2 == 0 ? 1
                                 : bad < 0     ? tiles - step / 2 - 1
                                               : 0; },
      [&](int64_t step, int64_t index) {
        const int64_t it = step / 2;
        if (step % 2 == 1) {
          factor_row_tile(d, it, it + 1 + index, scratch);
        } else if (bad < 0) {
          bad = factor_diagonal_tile(d, it, scratch);
        }
      });
  if (bad >= 0) return bad + 1;
  parallel_for(tiles, threads, [&](int64_t it, int) { scatter_tile_row(params, it, scratch); });
  return 0;
}

template int64_t upper_factor<float>(const UpperFactorParams<float>&, Isa, int);
template int64_t upper_factor<double>(const UpperFactorParams<double>&, Isa, int);

}  // namespace sbc
