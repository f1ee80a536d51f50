#include "obs_select/obs_select.h"

#include <algorithm>
#include <vector>

#include "common/aligned.h"
#include "common/threads.h"
#include "obs_select/cpu.h"
#include "product/product.h"

namespace sbc {

template <class T>
void obs_select(const ObsSelectParams<T>& params, Isa isa, int threads) {
  const auto select_row = SBC_SELECT_ISA(isa, select_row<T>);
  const int64_t d = params.d, kept = params.num_kept;
  const int64_t elements = SBC_SELECT_ISA(isa, select_scratch_elements<T>)(d, kept);
  const AlignedArray<T> gradient = aligned_array<T>(params.rows * d);
  product<T>({params.weight, params.hessian, params.rows, d, d, gradient.get()}, isa, threads);
  const double work = static_cast<double>(params.rows) * d * kept * (kept + 1) / 2;
  const int workers = static_cast<int>(
      std::max<int64_t>(1, std::min<int64_t>(useful_threads(work, threads), params.rows)));
  std::vector<AlignedArray<T>> scratch(workers);
  std::vector<std::vector<int64_t>> left(workers, std::vector<int64_t>(params.num_groups));
  for (auto& memory : scratch) memory = aligned_array<T>(elements);
  parallel_for(params.rows, workers, [&](int64_t row, int worker) {
    select_row(params, row, gradient.get() + row * d, scratch[worker].get(), left[worker].data());
  });
}

template void obs_select<float>(const ObsSelectParams<float>&, Isa, int);
template void obs_select<double>(const ObsSelectParams<double>&, Isa, int);

}  // namespace sbc
