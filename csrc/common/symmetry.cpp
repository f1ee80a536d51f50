#include "common/symmetry.h"

#include <cmath>

#include "common/threads.h"

namespace sbc {

template <class T>
Skew<T> measure_skew(const T* matrix, int64_t d, int threads) {
  constexpr int64_t kSide = 32;  // block against mirrored block: both stay in first-level cache
  std::vector<Skew<T>> skews(threads, Skew<T>{0, 0});
  parallel_for((d + kSide - 1) / kSide, threads, [&](int64_t block, int worker) {
    Skew<T> skew = skews[worker];
    const int64_t i0 = block * kSide, i1 = std::min(d, i0 + kSide);
    for (int64_t j0 = i0; j0 < d; j0 += kSide) {
      const int64_t j1 = std::min(d, j0 + kSide);
      for (int64_t i = i0; i < i1; ++i) {
        for (int64_t j = j0; j < j1; ++j) {
          const T upper = matrix[i * d + j], lower = matrix[j * d + i];
          skew.largest = std::max(skew.largest, std::max(std::abs(upper), std::abs(lower)));
          skew.difference = std::max(skew.difference, std::abs(upper - lower));
        }
      }
    }
    skews[worker] = skew;
  });
  Skew<T> all{0, 0};
  for (const Skew<T>& skew : skews) {
    all.largest = std::max(all.largest, skew.largest);
    all.difference = std::max(all.difference, skew.difference);
  }
  return all;
}

template Skew<float> measure_skew<float>(const float*, int64_t, int);
template Skew<double> measure_skew<double>(const double*, int64_t, int);

}  // namespace sbc
