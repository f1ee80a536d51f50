// Checks product and add_square against sums in double precision.

#include <cmath>

#include "check.h"
#include "product/product.h"

namespace sbc::check {
namespace {

template <class T>
void check(Random& random, Isa isa, int64_t m, int64_t k, int64_t n, Tally& tally) {
  std::vector<T> left(m * k), right(k * n);
  for (T& value : left) value = static_cast<T>(random.real());
  for (T& value : right) value = static_cast<T>(random.real());
  const auto run = [&](int threads) {
    std::vector<T> out(m * n, kNaN<T>);
    product(ProductParams<T>{left.data(), right.data(), m, k, n, out.data()}, isa, threads);
    return out;
  };
  Case test(tally, join(kTypeName<T>, ", ", m, " x ", k, " x ", n));
  const std::vector<T> out = run(1);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < k; ++l) {
        sum += static_cast<double>(left[i * k + l]) * static_cast<double>(right[l * n + j]);
      }
      // A partial sum of k terms is about sqrt(k) large, and so are its roundings.
      const double bound = static_cast<double>(k + 8) * std::numeric_limits<T>::epsilon();
      test.within(std::abs(static_cast<double>(out[i * n + j]) - sum), bound,
                  join("at ", i, ", ", j));
    }
  }
  for (const int threads : {2, 5}) {
    test.expect(run(threads) == out, join(threads, " threads change it"));
  }
}

void check_square(Random& random, Isa isa, int64_t k, int64_t d, Tally& tally) {
  std::vector<double> rows(k * d), before(d * d);
  for (double& value : rows) value = random.real();
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = i; j < d; ++j) before[i * d + j] = before[j * d + i] = random.real();
  }
  const auto run = [&](int threads) {
    std::vector<double> total = before;
    add_square(SquareParams{rows.data(), k, d, total.data()}, isa, threads);
    return total;
  };
  Case test(tally, join("square of ", k, " x ", d));
  const std::vector<double> total = run(1);
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = 0; j < d; ++j) {
      double sum = before[i * d + j];
      for (int64_t l = 0; l < k; ++l) sum += rows[l * d + i] * rows[l * d + j];
      // A sum of squares grows as the number of its terms, and so do its roundings.
      const double bound = rounding<double>(k + 1) * (4 + std::abs(sum));
      test.within(std::abs(total[i * d + j] - sum), bound, join("at ", i, ", ", j));
      test.expect(total[i * d + j] == total[j * d + i], join("not symmetric at ", i, ", ", j));
    }
  }
  for (const int threads : {2, 5}) {
    test.expect(run(threads) == total, join(threads, " threads change it"));
  }
}

}  // namespace

void check_product(Isa isa, bool quick, Tally& tally) {
  Random random(8);
  for (const int64_t size : ragged_sizes(quick)) {
    const int64_t m = random.integer(1, 60), k = random.integer(1, 150);
    check<float>(random, isa, m, k, size, tally);
    check<double>(random, isa, size, k, m, tally);
    check<double>(random, isa, m, size, k, tally);
    check_square(random, isa, k, size, tally);
  }
  check<float>(random, isa, 3, 0, 2, tally);  // a sum of nothing is 0
  check<double>(random, isa, 0, 4, 2, tally);
  check_square(random, isa, 0, 3, tally);
  // More multiply-adds than one thread is given.
  check<float>(random, isa, 200, 300, 500, tally);
  check_square(random, isa, 500, 300, tally);
  if (quick) return;
  // Operands of more than are packed at a time: 384 terms of 22,000 columns are 64 MiB.
  check<double>(random, isa, 2, 800, 22000, tally);
}

}  // namespace sbc::check
