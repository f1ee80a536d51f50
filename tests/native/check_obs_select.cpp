// Compares obs_select with one-at-a-time selection in double precision, which follows the kernel's
// order: at each step no other weight may gain more, and the gain must be right.

#include <algorithm>
#include <cmath>

#include "check.h"
#include "obs_select/obs_select.h"

namespace sbc::check {
namespace {

template <class T>
struct Problem {
  int64_t rows, d, num_kept;
  std::vector<T> weight, hessian;
  std::vector<int32_t> group, quota;  // empty: none
};

template <class T>
struct Answer {
  std::vector<int32_t> order;
  std::vector<T> gain;
  std::vector<int32_t> failed;
  bool operator==(const Answer& o) const {
    return order == o.order && gain == o.gain && failed == o.failed;
  }
};

template <class T>
Answer<T> run(const Problem<T>& problem, Isa isa, int threads) {
  const int64_t count = problem.rows * problem.num_kept;
  Answer<T> answer{std::vector<int32_t>(count, -1), std::vector<T>(count, kNaN<T>),
                   std::vector<int32_t>(problem.rows, -1)};
  const bool grouped = !problem.group.empty();
  const ObsSelectParams<T> params{problem.weight.data(),
                                  problem.hessian.data(),
                                  problem.rows,
                                  problem.d,
                                  problem.num_kept,
                                  grouped ? problem.group.data() : nullptr,
                                  grouped ? problem.quota.data() : nullptr,
                                  static_cast<int64_t>(problem.quota.size()),
                                  answer.order.data(),
                                  answer.gain.data(),
                                  answer.failed.data()};
  obs_select(params, isa, threads);
  return answer;
}

template <class T>
void follow(Case& test, const Problem<T>& problem, int64_t row, const int32_t* order,
            const T* gain) {
  const int64_t d = problem.d;
  std::vector<double> S(problem.hessian.begin(), problem.hessian.end()), g(d);
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = 0; j < d; ++j) g[j] += problem.weight[row * d + i] * S[i * d + j];
  }
  std::vector<int32_t> left = problem.quota;
  std::vector<char> open(d, 1);
  const auto root = [&](int64_t i) { return std::abs(g[i]) / std::sqrt(S[i * d + i]); };
  const auto may_stay = [&](int64_t i) {
    return open[i] && (left.empty() || left[problem.group[i]] > 0);
  };
  double largest = 0;
  for (int64_t i = 0; i < d; ++i) largest = std::max(largest, root(i));
  for (int64_t step = 0; step < problem.num_kept; ++step) {
    const int64_t p = order[step];
    const double bound = rounding<T>(step + d) * largest;
    const std::string here = join("row ", row, ", step ", step);
    if (!test.expect(p >= 0 && p < d && may_stay(p), join(here, ": ", p, " may not stay"))) return;
    double best = root(p);
    for (int64_t i = 0; i < d; ++i) {
      if (may_stay(i)) best = std::max(best, root(i));
    }
    test.within(best - root(p), bound, here + ", not the largest gain");
    test.within(std::abs(std::sqrt(2 * static_cast<double>(gain[step])) - root(p)), bound,
                here + ", gain");
    open[p] = 0;
    if (!left.empty()) --left[problem.group[p]];
    for (int64_t i = 0; i < d; ++i) {
      if (!open[i]) continue;
      const double factor = S[i * d + p] / S[p * d + p];
      g[i] -= g[p] * factor;
      for (int64_t j = 0; j < d; ++j) {
        if (open[j]) S[i * d + j] -= factor * S[p * d + j];
      }
    }
  }
}

template <class T>
void check(const Problem<T>& problem, Isa isa, Tally& tally) {
  Case test(tally, join(kTypeName<T>, ", rows ", problem.rows, ", d ", problem.d, ", num_kept ",
                        problem.num_kept, ", groups ", problem.quota.size()));
  const Answer<T> answer = run(problem, isa, 1);
  for (int64_t row = 0; row < problem.rows; ++row) {
    test.expect(answer.failed[row] == 0, "a positive definite matrix failed");
    const int64_t at = row * problem.num_kept;
    follow(test, problem, row, answer.order.data() + at, answer.gain.data() + at);
  }
  test.expect(run(problem, isa, 2) == answer, "two threads give another answer");
}

template <class T>
void check_type(Isa isa, bool quick, Tally& tally) {
  Random random(14);
  for (const int64_t d : ragged_sizes(quick)) {
    const int64_t rows = d > 200 ? 1 : random.integer(1, 3);
    Problem<T> problem{rows, d, d, std::vector<T>(rows * d), positive_definite<T>(random, d),
                       {},   {}};
    for (T& weight : problem.weight) weight = static_cast<T>(random.real());
    check(problem, isa, tally);
    problem.num_kept = random.integer(0, d);
    check(problem, isa, tally);
    for (int64_t i = 0; i < d; ++i) problem.group.push_back(static_cast<int32_t>(i / 4));
    problem.quota.assign((d + 3) / 4, 2);
    problem.num_kept = d / 4 * 2 + std::min<int64_t>(d % 4, 2);
    check(problem, isa, tally);
  }
  Case test(tally, join(kTypeName<T>, ", an indefinite matrix"));
  const Problem<T> indefinite{1, 2, 2, {T(1), T(1)}, {T(1), T(2), T(2), T(1)}, {}, {}};
  test.expect(run(indefinite, isa, 1).failed[0] == 1, "not noticed at the first step");
}

}  // namespace

void check_obs_select(Isa isa, bool quick, Tally& tally) {
  check_type<float>(isa, quick, tally);
  check_type<double>(isa, quick, tally);
}

}  // namespace sbc::check
