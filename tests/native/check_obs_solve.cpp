// Checks the residual of obs_solve in double precision: that of a backward stable solver is at most
// a few n * epsilon * (|A| |x| + |b|), however ill-conditioned A is.

#include <cmath>

#include "check.h"
#include "obs_solve/obs_solve.h"

namespace sbc::check {
namespace {

template <class T>
struct Problem {
  int64_t rows, d;
  std::vector<T> matrix, rhs;
  std::vector<uint8_t> select;
};

template <class T>
struct Answer {
  std::vector<T> solution;
  std::vector<int32_t> failed;
  bool operator==(const Answer& o) const { return solution == o.solution && failed == o.failed; }
};

template <class T>
Answer<T> run(const Problem<T>& problem, Isa isa, int threads) {
  Answer<T> answer{std::vector<T>(problem.rows * problem.d, kNaN<T>),
                   std::vector<int32_t>(problem.rows, -1)};
  const ObsSolveParams<T> params{problem.matrix.data(), problem.rhs.data(), problem.select.data(),
                                 problem.rows,          problem.d,          answer.solution.data(),
                                 answer.failed.data()};
  obs_solve(params, isa, threads);
  return answer;
}

// Row 0 selects nothing, row 1 everything, and the others a random subset.
template <class T>
Problem<T> draw(Random& random, int64_t rows, int64_t d) {
  Problem<T> problem{rows, d, positive_definite<T>(random, d), std::vector<T>(rows * d),
                     std::vector<uint8_t>(rows * d)};
  for (T& b : problem.rhs) b = static_cast<T>(random.real());
  for (int64_t row = 0; row < rows; ++row) {
    const double density = row < 2 ? static_cast<double>(row) : (random.real() + 1) / 2;
    for (int64_t j = 0; j < d; ++j) problem.select[row * d + j] = random.chance(density);
  }
  return problem;
}

template <class T>
void check_row(Case& test, const Problem<T>& problem, int64_t row, const Answer<T>& answer) {
  const int64_t d = problem.d;
  const T* x = answer.solution.data() + row * d;
  const uint8_t* select = problem.select.data() + row * d;
  test.expect(answer.failed[row] == 0, join("row ", row, " failed"));
  double largest = 0;
  int64_t size = 0;
  for (int64_t j = 0; j < d; ++j) {
    if (!select[j]) test.expect(x[j] == T(0), join("row ", row, ": not zero outside the subset"));
    largest = std::max(largest, std::abs(static_cast<double>(x[j])));
    size += select[j];
  }
  for (int64_t i = 0; i < d; ++i) {
    if (!select[i]) continue;
    const double b = problem.rhs[row * d + i];
    double residual = -b, row_sum = 0;
    for (int64_t j = 0; j < d; ++j) {
      const double a = problem.matrix[i * d + j];
      residual += a * x[j];
      row_sum += select[j] * std::abs(a);
    }
    test.within(std::abs(residual), rounding<T>(size) * (row_sum * largest + std::abs(b)),
                join("row ", row, ", residual ", i));
  }
}

template <class T>
void check(const Problem<T>& problem, Isa isa, Tally& tally) {
  Case test(tally, join(kTypeName<T>, ", rows ", problem.rows, ", d ", problem.d));
  const Answer<T> answer = run(problem, isa, 1);
  for (int64_t row = 0; row < problem.rows; ++row) check_row(test, problem, row, answer);
  test.expect(run(problem, isa, 2) == answer, "two threads give another answer");
}

// A matrix with one bad diagonal entry: rows that select it fail at its place in their subset and
// have zeros as solution, and the other rows are not affected.
template <class T>
void check_bad_pivot(Random& random, int64_t d, T pivot, Isa isa, Tally& tally) {
  Problem<T> problem = draw<T>(random, 6, d);
  const int64_t bad = random.integer(0, d - 1);
  problem.matrix[bad * d + bad] = pivot;
  Case test(tally, join(kTypeName<T>, ", d ", d, ", diagonal entry ", bad, " is ", pivot));
  const Answer<T> answer = run(problem, isa, 2);
  for (int64_t row = 0; row < problem.rows; ++row) {
    const uint8_t* select = problem.select.data() + row * d;
    if (!select[bad]) {
      // A NaN outside the subset must not reach the residual either.
      Problem<T> sound = problem;
      sound.matrix[bad * d + bad] = T(1);
      check_row(test, sound, row, answer);
      continue;
    }
    int32_t place = 0;
    for (int64_t j = 0; j < bad; ++j) place += select[j];
    test.expect(answer.failed[row] == place + 1,
                join("row ", row, ": failed is ", answer.failed[row], ", expected is ", place + 1));
    for (int64_t j = 0; j < d; ++j) {
      test.expect(answer.solution[row * d + j] == T(0), join("row ", row, ": not all zeros"));
    }
  }
}

template <class T>
void check_type(Isa isa, bool quick, Tally& tally) {
  Random random(5);
  for (const int64_t d : ragged_sizes(quick)) {
    check(draw<T>(random, d > 200 ? 3 : random.integer(2, 7), d), isa, tally);
    check(draw<T>(random, 1, d), isa, tally);  // no row selects anything
    if (d > 200) continue;
    for (const T pivot : {T(0), T(-1), kNaN<T>, std::numeric_limits<T>::infinity()}) {
      check_bad_pivot(random, d, pivot, isa, tally);
    }
  }
}

}  // namespace

void check_obs_solve(Isa isa, bool quick, Tally& tally) {
  check_type<float>(isa, quick, tally);
  check_type<double>(isa, quick, tally);
}

}  // namespace sbc::check
