#include "upper_factor/upper_factor.h"

#include "common/aligned.h"
#include "common/threads.h"
#include "factor/factor.h"
#include "upper_factor/cpu.h"

namespace sbc {

template <class T>
int64_t upper_factor(const UpperFactorParams<T>& params, Isa isa, int threads) {
  const auto gather_tile_row = SBC_SELECT_ISA(isa, gather_tile_row<T>);
  const auto scatter_tile_row = SBC_SELECT_ISA(isa, scatter_tile_row<T>);
  const double d = static_cast<double>(params.d);
  threads = useful_threads(d * d * d / 6, threads);
  const AlignedArray<double> owner =
      aligned_array<double>(SBC_SELECT_ISA(isa, factor_elements)(params.d));
  const FactorTiles a = factor_tiles(owner.get(), params.d, isa, threads);
  parallel_for(a.tiles, threads, [&](int64_t it, int) { gather_tile_row(params, it, a.data); });
  if (const int64_t bad = factor(a, isa, threads)) return bad;
  parallel_for(a.tiles, threads, [&](int64_t it, int) { scatter_tile_row(params, it, a.data); });
  return 0;
}

template int64_t upper_factor<float>(const UpperFactorParams<float>&, Isa, int);
template int64_t upper_factor<double>(const UpperFactorParams<double>&, Isa, int);

}  // namespace sbc
