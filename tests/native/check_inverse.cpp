// Checks inverse and solve_positive by LAPACK's measures: |A G - 1| / (d |A| |G| epsilon) and
// |A x - b| / (d |A| |x| epsilon) in the 1-norm.

#include <algorithm>
#include <cmath>

#include "check.h"
#include "inverse/inverse.h"
#include "solve_positive/solve_positive.h"

namespace sbc::check {
namespace {

constexpr double kAccepted = 30;  // LAPACK's own tests
constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

double norm(const std::vector<double>& matrix, int64_t d) {
  double largest = 0;
  for (int64_t i = 0; i < d; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < d; ++j) sum += std::abs(matrix[i * d + j]);
    largest = std::max(largest, sum);
  }
  return largest;
}

std::vector<double> inverse_of(const std::vector<double>& matrix, int64_t d, Isa isa, int threads,
                               int64_t& bad) {
  std::vector<double> inverse(d * d, kNaN<double>);
  bad = sbc::inverse(InverseParams{matrix.data(), d, inverse.data()}, isa, threads);
  return inverse;
}

std::vector<double> solution_of(const std::vector<double>& matrix, const std::vector<double>& rhs,
                                int64_t d, Isa isa, int threads, int64_t& bad) {
  std::vector<double> x(rhs.size(), kNaN<double>);
  const int64_t rows = static_cast<int64_t>(rhs.size()) / d;
  bad = solve_positive(SolvePositiveParams{matrix.data(), rhs.data(), rows, d, x.data()}, isa,
                       threads);
  return x;
}

// Rows of x A - b; b of the identity has d rows.
double largest_residual(const std::vector<double>& x, const std::vector<double>& matrix,
                        const std::vector<double>& b, int64_t d) {
  double largest = 0;
  for (size_t row = 0; row < b.size() / d; ++row) {
    double sum = 0, size = 0;
    for (int64_t j = 0; j < d; ++j) {
      double entry = -b[row * d + j];
      for (int64_t k = 0; k < d; ++k) entry += x[row * d + k] * matrix[k * d + j];
      sum += std::abs(entry);
      size += std::abs(x[row * d + j]);
    }
    if (!(sum <= size * largest)) largest = sum / size;
  }
  return largest;
}

// A matrix whose pivot at `place` is not positive is refused there.
std::vector<double> broken(const std::vector<double>& matrix, int64_t d, int64_t place,
                           double value) {
  std::vector<double> changed = matrix;
  changed[place * d + place] = value;
  return changed;
}

}  // namespace

void check_inverse(Isa isa, bool quick, Tally& tally) {
  Random random(6);
  for (const int64_t d : ragged_sizes(quick)) {
    const std::vector<double> matrix = positive_definite<double>(random, d);
    std::vector<double> identity(d * d, 0.0);
    for (int64_t i = 0; i < d; ++i) identity[i * d + i] = 1;
    int64_t bad = -1;
    const std::vector<double> G = inverse_of(matrix, d, isa, 1, bad);
    {
      Case test(tally, join("d ", d));
      test.expect(bad == 0, join("pivot ", bad, " is not positive"));
      for (int64_t i = 0; i < d; ++i) {
        for (int64_t j = 0; j < i; ++j) {
          test.expect(G[i * d + j] == G[j * d + i], join("not symmetric at ", i, ", ", j));
        }
      }
      test.within(largest_residual(G, matrix, identity, d),
                  kAccepted * d * norm(matrix, d) * kEpsilon, "A G - 1");
      for (const int threads : {2, 5}) {
        test.expect(inverse_of(matrix, d, isa, threads, bad) == G,
                    join(threads, " threads change it"));
      }
    }
    for (const double value : {0.0, -1.0, kNaN<double>}) {
      const int64_t place = random.integer(0, d - 1);
      Case test(tally, join("d ", d, ", ", value, " at ", place));
      inverse_of(broken(matrix, d, place, value), d, isa, 2, bad);
      test.expect(bad == place + 1, join("answered ", bad, ", expected ", place + 1));
    }
  }
  // More multiply-adds than one thread is given, so that several really share them.
  const int64_t d = quick ? 300 : 500;
  const std::vector<double> matrix = positive_definite<double>(random, d);
  int64_t bad = -1;
  Case test(tally, "threads that share blocks");
  const std::vector<double> G = inverse_of(matrix, d, isa, 1, bad);
  for (const int threads : {2, 3, 5}) {
    test.expect(inverse_of(matrix, d, isa, threads, bad) == G && bad == 0,
                join(threads, " threads change it"));
  }
}

void check_solve_positive(Isa isa, bool quick, Tally& tally) {
  Random random(7);
  for (const int64_t d : ragged_sizes(quick)) {
    const std::vector<double> matrix = positive_definite<double>(random, d);
    for (const int64_t rows : {int64_t{1}, int64_t{5}, int64_t{60}}) {
      std::vector<double> rhs(rows * d);
      for (double& value : rhs) value = random.real();
      int64_t bad = -1;
      const std::vector<double> x = solution_of(matrix, rhs, d, isa, 1, bad);
      Case test(tally, join("d ", d, ", rows ", rows));
      test.expect(bad == 0, join("pivot ", bad, " is not positive"));
      test.within(largest_residual(x, matrix, rhs, d), kAccepted * d * norm(matrix, d) * kEpsilon,
                  "A x - b");
      for (const int threads : {2, 5}) {
        test.expect(solution_of(matrix, rhs, d, isa, threads, bad) == x,
                    join(threads, " threads change it"));
      }
      const int64_t place = random.integer(0, d - 1);
      solution_of(broken(matrix, d, place, 0.0), rhs, d, isa, 1, bad);
      test.expect(bad == place + 1, join("answered ", bad, ", expected ", place + 1));
    }
  }
}

}  // namespace sbc::check
