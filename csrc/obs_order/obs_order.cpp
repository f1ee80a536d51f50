#include "obs_order/obs_order.h"

#include "common/aligned.h"
#include "common/threads.h"
#include "obs_order/cpu.h"

namespace sbc {

template <class T>
void obs_order(const ObsOrderParams<T>& params, Isa isa, int threads) {
  const auto order_row = SBC_SELECT_ISA(isa, order_row<T>);
  const int64_t elements = SBC_SELECT_ISA(isa, order_scratch_elements<T>)(params.d);
  const int workers =
      static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, params.rows)));
  std::vector<AlignedArray<T>> scratch(workers);
  std::vector<AlignedArray<int64_t>> places(workers);
  for (int worker = 0; worker < workers; ++worker) {
    scratch[worker] = aligned_array<T>(elements);
    places[worker] = aligned_array<int64_t>(3 * params.d + params.num_groups);
  }
  parallel_for(params.rows, workers, [&](int64_t row, int worker) {
    order_row(params, row, scratch[worker].get(), places[worker].get());
  });
}

template void obs_order<float>(const ObsOrderParams<float>&, Isa, int);
template void obs_order<double>(const ObsOrderParams<double>&, Isa, int);

}  // namespace sbc
