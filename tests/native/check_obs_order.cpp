// Compares obs_order with one-at-a-time removal in double precision.
//
// Rounding may swap two removals of almost equal cost, after which everything differs. The
// reference therefore follows the kernel's order, and checks at each step that no other weight
// would have been cheaper and that the loss is right.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "check.h"
#include "obs_order/obs_order.h"

namespace sbc::check {
namespace {

template <class T>
struct Problem {
  int64_t rows, d, num_pruned;
  std::vector<T> weight, inverse_hessian;
  std::vector<int32_t> group, quota;  // empty: none
};

template <class T>
struct Answer {
  std::vector<int32_t> order;
  std::vector<T> loss;
  bool operator==(const Answer& other) const { return order == other.order && loss == other.loss; }
};

template <class T>
Answer<T> run(const Problem<T>& problem, Isa isa, int threads) {
  const int64_t count = problem.rows * problem.num_pruned;
  Answer<T> answer{std::vector<int32_t>(count, -1), std::vector<T>(count, kNaN<T>)};
  const ObsOrderParams<T> params{problem.weight.data(),
                                 problem.inverse_hessian.data(),
                                 problem.rows,
                                 problem.d,
                                 problem.num_pruned,
                                 problem.group.empty() ? nullptr : problem.group.data(),
                                 problem.group.empty() ? nullptr : problem.quota.data(),
                                 static_cast<int64_t>(problem.quota.size()),
                                 answer.order.data(),
                                 answer.loss.data()};
  obs_order(params, isa, threads);
  return answer;
}

// w <- w - (w_p / G_pp) G_:p, G <- G - G_:p G_p: / G_pp, in the given order. The square root of a
// loss is linear in the weights, so its error is relative to the most expensive weight of the row.
template <class T>
void follow(Case& test, const Problem<T>& problem, int64_t row, const int32_t* order,
            const T* loss) {
  const int64_t d = problem.d;
  const auto first = problem.weight.begin() + row * d;
  std::vector<double> w(first, first + d);
  std::vector<double> G(problem.inverse_hessian.begin(), problem.inverse_hessian.end());
  std::vector<int32_t> left = problem.quota;
  std::vector<char> open(d, 1);
  const auto root_loss = [&](int64_t i) { return std::abs(w[i]) / std::sqrt(2 * G[i * d + i]); };
  const auto may_go = [&](int64_t i) {
    return open[i] && (problem.group.empty() || left[problem.group[i]] > 0);
  };
  double dearest = 0;
  for (int64_t i = 0; i < d; ++i) dearest = std::max(dearest, root_loss(i));

  for (int64_t step = 0; step < problem.num_pruned; ++step) {
    const int64_t p = order[step];
    const double bound = rounding<T>(step + 1) * dearest;
    const std::string here = join("row ", row, ", step ", step);
    if (!test.expect(p >= 0 && p < d && may_go(p), join(here, ": ", p, " may not go"))) return;
    double cheapest = root_loss(p);
    for (int64_t i = 0; i < d; ++i) {
      if (may_go(i)) cheapest = std::min(cheapest, root_loss(i));
    }
    test.within(root_loss(p) - cheapest, bound, here + ", not the cheapest");
    test.within(std::abs(std::sqrt(static_cast<double>(loss[step])) - root_loss(p)), bound,
                here + ", loss");
    open[p] = 0;
    if (!left.empty()) --left[problem.group[p]];
    for (int64_t i = 0; i < d; ++i) {
      if (!open[i]) continue;
      const double factor = G[i * d + p] / G[p * d + p];
      w[i] -= w[p] * factor;
      for (int64_t j = 0; j < d; ++j) {
        if (open[j]) G[i * d + j] -= factor * G[p * d + j];
      }
    }
  }
}

template <class T>
Problem<T> draw(Random& random, int64_t rows, int64_t d, int64_t num_pruned) {
  Problem<T> problem{rows, d, num_pruned, std::vector<T>(rows * d), {}, {}, {}};
  for (T& weight : problem.weight) weight = static_cast<T>(random.real());
  problem.weight[random.integer(0, rows * d - 1)] = 0;
  problem.inverse_hessian = positive_definite<T>(random, d);
  return problem;
}

// Groups of four, as in N:M patterns, or a few of any size, some with a quota of zero. num_pruned
// is lowered to what the quotas admit.
template <class T>
void add_groups(Random& random, Problem<T>& problem) {
  const bool pattern = random.chance(0.5);
  const int64_t groups = pattern ? (problem.d + 3) / 4 : random.integer(1, 6);
  std::vector<int64_t> members(groups);
  for (int64_t i = 0; i < problem.d; ++i) {
    problem.group.push_back(static_cast<int32_t>(pattern ? i / 4 : random.integer(0, groups - 1)));
    ++members[problem.group.back()];
  }
  int64_t admitted = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t quota = pattern ? 2 : random.integer(0, members[g] + 1);
    problem.quota.push_back(static_cast<int32_t>(quota));
    admitted += std::min(quota, members[g]);
  }
  problem.num_pruned = std::min(problem.num_pruned, admitted);
}

template <class T>
void check(const Problem<T>& problem, Isa isa, Tally& tally) {
  Case test(tally, join(kTypeName<T>, ", rows ", problem.rows, ", d ", problem.d, ", num_pruned ",
                        problem.num_pruned, ", groups ", problem.quota.size()));
  const Answer<T> answer = run(problem, isa, 1);
  for (int64_t row = 0; row < problem.rows; ++row) {
    const int64_t at = row * problem.num_pruned;
    follow(test, problem, row, answer.order.data() + at, answer.loss.data() + at);
  }
  test.expect(run(problem, isa, 2) == answer, "two threads give another answer");
}

// For any numbers, each row of the order is a permutation.
template <class T>
void check_permutation(const Problem<T>& problem, const char* what, Isa isa, Tally& tally) {
  Case test(tally, join(kTypeName<T>, ", d ", problem.d, ", ", what));
  std::vector<int32_t> all(problem.d);
  std::iota(all.begin(), all.end(), 0);
  const std::vector<int32_t> order = run(problem, isa, 1).order;
  test.expect(std::is_permutation(order.begin(), order.end(), all.begin(), all.end()),
              "not a permutation");
}

template <class T>
void check_hard_numbers(Random& random, Isa isa, Tally& tally) {
  constexpr int64_t d = 60;
  Problem<T> problem = draw<T>(random, 1, d, d);
  const std::vector<T> weight = problem.weight;
  const std::vector<int32_t> order = run(problem, isa, 1).order;
  // Scaling by a power of two scales every loss and changes no order, within the range of the type.
  for (const int exponent : {std::numeric_limits<T>::max_exponent, 60, -60}) {
    Case test(tally, join(kTypeName<T>, ", weights scaled by 2^", exponent));
    for (int64_t i = 0; i < d; ++i) problem.weight[i] = std::ldexp(weight[i], exponent);
    test.expect(run(problem, isa, 1).order == order, "another order");
  }
  std::fill(problem.weight.begin(), problem.weight.end(), T(0));
  check_permutation(problem, "zero weights", isa, tally);
  problem.weight = weight;
  std::fill(problem.inverse_hessian.begin(), problem.inverse_hessian.end(), T(1));
  check_permutation(problem, "rank one", isa, tally);
  problem.weight[7] = kNaN<T>;
  check_permutation(problem, "a NaN", isa, tally);
}

template <class T>
void check_type(Isa isa, bool quick, Tally& tally) {
  Random random(4);
  for (const int64_t d : ragged_sizes(quick)) {
    const int64_t rows = d > 200 ? 1 : random.integer(1, 3);
    check(draw<T>(random, rows, d, d), isa, tally);
    Problem<T> part = draw<T>(random, rows, d, random.integer(0, d));
    check(part, isa, tally);
    add_groups(random, part);
    check(part, isa, tally);
  }
  check_hard_numbers<T>(random, isa, tally);
  if (quick) return;
  // Panels are 24 pivots wide, 48 from d = 384 and 96 from d = 1536.
  check(draw<T>(random, 1, 390, 120), isa, tally);
  if (sizeof(T) == 4) check(draw<T>(random, 1, 1540, 101), isa, tally);
}

}  // namespace

void check_obs_order(Isa isa, bool quick, Tally& tally) {
  check_type<float>(isa, quick, tally);
  check_type<double>(isa, quick, tally);
}

}  // namespace sbc::check
