#include "obs_order/obs_order.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/aligned.h"
#include "common/threads.h"
#include "obs_order/cpu.h"

namespace sbc {
namespace {

// The weights of a row, the least |w| / sqrt(G_pp) first. Any order gives the same result and this
// one the least time, so float32 is accurate enough. Numbers that are not negative sort like their
// bits, which leaves the other half of each key for the id.
template <class T>
void sort_by_score(const ObsOrderParams<T>& params, int64_t row, int64_t* ids) {
  for (int64_t i = 0; i < params.d; ++i) {
    const T weight = params.weight[row * params.d + i];
    const float score =
        static_cast<float>(std::abs(weight) / std::sqrt(params.inverse_hessian[i * params.d + i]));
    uint32_t bits = 0;
    std::memcpy(&bits, &score, sizeof(bits));
    ids[i] = static_cast<int64_t>(bits & 0x7fffffff) << 32 | i;
  }
  std::sort(ids, ids + params.d);
  for (int64_t i = 0; i < params.d; ++i) ids[i] &= 0xffffffff;
}

}  // namespace

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
    places[worker] = aligned_array<int64_t>(3 * params.d + 1 + params.num_groups);
  }
  parallel_for(params.rows, workers, [&](int64_t row, int worker) {
    sort_by_score(params, row, places[worker].get());
    order_row(params, row, scratch[worker].get(), places[worker].get());
  });
}

template void obs_order<float>(const ObsOrderParams<float>&, Isa, int);
template void obs_order<double>(const ObsOrderParams<double>&, Isa, int);

}  // namespace sbc
