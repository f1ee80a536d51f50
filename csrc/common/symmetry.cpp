#include "common/symmetry.h"

#include <cmath>

#include "common/threads.h"

namespace sbc {

template <class T>
Skew<T> measure_skew(const T* matrix, int64_t d, int threads) {
  constexpr int64_t kSide = 32;  // a block and its mirror image fit into first-level cache
  std::vector<Skew<T>> skews(threads, Skew<T>{0, 0});
  parallel_for((d + kSide - 1) / kSide, threads, [&](int64_t block, int worker) {
    // One maximum per column, by plain comparisons: the compiler can vectorise this form.
    T largest[kSide] = {}, difference[kSide] = {}, mirror[kSide][kSide];
    const int64_t i0 = block * kSide, rows = std::min(kSide, d - i0);
    for (int64_t j0 = i0; j0 < d; j0 += kSide) {
      const int64_t columns = std::min(kSide, d - j0);
      for (int64_t j = 0; j < columns; ++j) {
        for (int64_t i = 0; i < rows; ++i) mirror[i][j] = matrix[(j0 + j) * d + i0 + i];
      }
      for (int64_t i = 0; i < rows; ++i) {
        const T* upper = matrix + (i0 + i) * d + j0;
        for (int64_t j = 0; j < columns; ++j) {
          const T a = std::abs(upper[j]), b = std::abs(mirror[i][j]);
          const T apart = std::abs(upper[j] - mirror[i][j]), larger = a > b ? a : b;
          largest[j] = larger > largest[j] ? larger : largest[j];
          difference[j] = apart > difference[j] ? apart : difference[j];
        }
      }
    }
    Skew<T>& skew = skews[worker];
    for (int64_t j = 0; j < kSide; ++j) {
      skew.largest = std::max(skew.largest, largest[j]);
      skew.difference = std::max(skew.difference, difference[j]);
    }
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
