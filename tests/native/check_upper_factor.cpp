// Checks the promise of upper_factor: R R' is the matrix, within d * epsilon of its diagonal's
// size.

#include <algorithm>
#include <cmath>

#include "check.h"
#include "upper_factor/upper_factor.h"

namespace sbc::check {
namespace {

template <class T>
struct Problem {
  int64_t d;
  std::vector<T> matrix;
  std::vector<int32_t> perm;

  // Returns the factor; on failure nothing, and the return code in `bad`.
  std::vector<T> run(Isa isa, int threads, int64_t& bad) const {
    std::vector<T> factor(d * d, kNaN<T>);
    bad = upper_factor(UpperFactorParams<T>{matrix.data(), perm.data(), d, factor.data()}, isa,
                       threads);
    return factor;
  }
};

template <class T>
Problem<T> draw(Random& random, int64_t d) {
  Problem<T> problem{d, positive_definite<T>(random, d), std::vector<int32_t>(d)};
  for (int64_t i = 0; i < d; ++i) problem.perm[i] = static_cast<int32_t>(i);
  for (int64_t i = d - 1; i > 0; --i) {
    std::swap(problem.perm[i], problem.perm[random.integer(0, i)]);
  }
  return problem;
}

template <class T>
void check(Random& random, Isa isa, int64_t d, Tally& tally) {
  Problem<T> problem = draw<T>(random, d);
  int64_t bad = -1;
  const std::vector<T> R = problem.run(isa, 1, bad);
  {
    Case test(tally, join(kTypeName<T>, ", d ", d));
    test.expect(bad == 0, join("pivot ", bad, " is not positive"));
    const auto A = [&](int64_t i, int64_t j) -> double {
      return problem.matrix[problem.perm[i] * d + problem.perm[j]];
    };
    for (int64_t i = 0; i < d; ++i) {
      for (int64_t j = 0; j < d; ++j) {
        if (j < i) test.expect(R[i * d + j] == T(0), join("not zero at ", i, ", ", j));
        double sum = 0;
        for (int64_t k = std::max(i, j); k < d; ++k) {
          sum += static_cast<double>(R[i * d + k]) * static_cast<double>(R[j * d + k]);
        }
        const double size = std::sqrt(A(i, i) * A(j, j));
        test.within(std::abs(sum - A(i, j)), 4 * rounding<T>(1) * size + rounding<double>(d) * size,
                    join("R R' at ", i, ", ", j));
      }
    }
    for (const int threads : {2, 5}) {
      test.expect(problem.run(isa, threads, bad) == R, join(threads, " threads change it"));
    }
  }
  // A pivot that is not positive: the sweep begins at the last place.
  for (const T value : {T(0), T(-1), kNaN<T>}) {
    const int64_t place = random.integer(0, d - 1), at = problem.perm[place];
    Problem<T> broken = problem;
    broken.matrix[at * d + at] = value;
    for (const int threads : {1, 2}) {
      Case test(tally, join(kTypeName<T>, ", d ", d, ", ", value, " at ", place));
      broken.run(isa, threads, bad);
      test.expect(bad == d - place, join("answered ", bad, ", expected ", d - place));
    }
  }
}

}  // namespace

void check_upper_factor(Isa isa, bool quick, Tally& tally) {
  Random random(5);
  for (const int64_t d : ragged_sizes(quick)) {
    check<float>(random, isa, d, tally);
    check<double>(random, isa, d, tally);
  }
}

}  // namespace sbc::check
