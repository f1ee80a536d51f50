#include "obs_solve/obs_solve.h"

#include <numeric>

#include "common/aligned.h"
#include "common/threads.h"
#include "obs_solve/cpu.h"

namespace sbc {

template <class T>
void obs_solve(const ObsSolveParams<T>& params, Isa isa, int threads) {
  const auto solve_row = SBC_SELECT_ISA(isa, solve_row<T>);
  std::vector<int64_t> size(params.rows), by_size(params.rows);
  for (int64_t row = 0; row < params.rows; ++row) {
    const uint8_t* select = params.select + row * params.d;
    for (int64_t j = 0; j < params.d; ++j) size[row] += select[j] != 0;
  }
  // The largest rows first, so that no thread is left with a long row at the end.
  std::iota(by_size.begin(), by_size.end(), 0);
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](int64_t a, int64_t b) { return size[a] > size[b]; });
  const int64_t largest = params.rows > 0 ? size[by_size[0]] : 0;
  const int64_t elements = SBC_SELECT_ISA(isa, solve_scratch_elements<T>)(largest);
  const int workers =
      static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, params.rows)));
  std::vector<AlignedArray<T>> scratch(workers);
  std::vector<AlignedArray<int32_t>> subset(workers);
  for (int worker = 0; worker < workers; ++worker) {
    scratch[worker] = aligned_array<T>(elements);
    subset[worker] = aligned_array<int32_t>(largest);
  }
  parallel_for(params.rows, workers, [&](int64_t task, int worker) {
    solve_row(params, by_size[task], scratch[worker].get(), subset[worker].get());
  });
}

template void obs_solve<float>(const ObsSolveParams<float>&, Isa, int);
template void obs_solve<double>(const ObsSolveParams<double>&, Isa, int);

}  // namespace sbc
