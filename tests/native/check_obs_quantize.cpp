// Compares obs_quantize with its definition in params.h, in double precision.
//
// One value rounded the other way changes every later column, so the reference follows the kernel:
// the target of a column is computed from the kernel's results for the columns before it, and the
// kernel's result must be the nearest level, up to the rounding error of that one sum. If the
// factor is diagonal, no sum is rounded, and even ties have a single correct result.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "check.h"
#include "obs_quantize/obs_quantize.h"

namespace sbc::check {
namespace {

enum class Prune { none, mask, count, pattern };
constexpr const char* kPruneName[] = {"", ", mask", ", count", ", pattern"};

struct Shape {
  int64_t rows, d, block_size, group_size;
  int bits;
  Prune prune;
  bool exact;  // a diagonal factor, and weights that make ties
};

template <class T>
struct Problem {
  Shape shape;
  ObsQuantizeParams<T> params{};
  std::vector<T> weight, factor, scale, zero_point;
  std::vector<int32_t> perm, group;
  std::vector<uint8_t> mask;
};

template <class T>
struct Answer {
  std::vector<T> quantized, loss;
  std::vector<uint8_t> codes, kept;
  bool operator==(const Answer& o) const {
    return quantized == o.quantized && loss == o.loss && codes == o.codes && kept == o.kept;
  }
};

template <class T>
void draw_factor(Random& random, Problem<T>& problem) {
  const int64_t d = problem.shape.d;
  problem.factor.assign(d * d, T(0));
  for (int64_t i = 0; i < d; ++i) {
    const double pivot = problem.shape.exact
                             ? std::ldexp(1.0, static_cast<int>(random.integer(-1, 1)))
                             : 1 + 0.5 * random.real();
    problem.factor[i * d + i] = static_cast<T>(pivot);
    for (int64_t j = i + 1; j < d && !problem.shape.exact; ++j) {
      problem.factor[i * d + j] = static_cast<T>(random.real() / std::sqrt(d));
    }
  }
}

template <class T>
Problem<T> draw(Random& random, const Shape& shape) {
  Problem<T> problem;
  problem.shape = shape;
  const int64_t rows = shape.rows, d = shape.d;
  const int64_t groups = (d + shape.group_size - 1) / shape.group_size;
  for (int64_t i = 0; i < rows * d; ++i) {
    const double weight =
        shape.exact ? std::ldexp(static_cast<double>(random.integer(-24, 24)), -4) : random.real();
    problem.weight.push_back(static_cast<T>(weight));
  }
  draw_factor(random, problem);
  problem.perm.resize(d);
  std::iota(problem.perm.begin(), problem.perm.end(), 0);
  for (int64_t j = d - 1; j > 0 && shape.prune != Prune::pattern; --j) {
    std::swap(problem.perm[j], problem.perm[random.integer(0, j)]);
  }
  for (int64_t j = 0; j < d; ++j)
    problem.group.push_back(static_cast<int32_t>(j / shape.group_size));
  for (int64_t i = 0; i < rows * groups; ++i) {
    const double step =
        std::ldexp(1.0, -std::min(shape.bits, 3));  // so that weights exceed the grid
    problem.scale.push_back(static_cast<T>(shape.exact ? step : step * (1 + 0.5 * random.real())));
    problem.zero_point.push_back(static_cast<T>(random.integer(0, (1 << shape.bits) - 1)));
  }
  for (int64_t i = 0; i < rows * d; ++i) problem.mask.push_back(random.chance(0.6));
  problem.params.rows = rows, problem.params.d = d, problem.params.block_size = shape.block_size;
  problem.params.bits = shape.bits, problem.params.groups = groups;
  if (shape.prune == Prune::count) problem.params.num_pruned = random.integer(1, rows * d);
  if (shape.prune == Prune::pattern) {
    problem.params.of_m = d % 4 == 0 && shape.block_size % 4 == 0 ? 4 : 1;
    problem.params.keep_n = random.integer(0, problem.params.of_m);
  }
  return problem;
}

template <class T>
Answer<T> run(const Problem<T>& problem, Isa isa, int threads) {
  const int64_t rows = problem.shape.rows, count = rows * problem.shape.d;
  Answer<T> answer{std::vector<T>(count, kNaN<T>), std::vector<T>(rows, kNaN<T>),
                   std::vector<uint8_t>(count, 99), std::vector<uint8_t>(count, 99)};
  ObsQuantizeParams<T> params = problem.params;
  params.weight = problem.weight.data(), params.factor = problem.factor.data();
  params.perm = problem.perm.data(), params.group = problem.group.data();
  params.scale = problem.scale.data(), params.zero_point = problem.zero_point.data();
  if (problem.shape.prune == Prune::mask) params.mask = problem.mask.data();
  params.quantized = answer.quantized.data(), params.loss = answer.loss.data();
  if (params.bits > 0) params.codes = answer.codes.data();
  if (prunes(params)) params.kept = answer.kept.data();
  obs_quantize(params, isa, threads);
  return answer;
}

// A number, and the sum of the absolute values of its terms, which bounds its rounding error.
struct Sum {
  double value, size;
};

template <class T>
class Follower {
 public:
  Follower(Case& test, const Problem<T>& problem, const Answer<T>& answer)
      : test_(test),
        problem_(problem),
        answer_(answer),
        error_(problem.shape.d * problem.shape.rows) {}

  void follow() {
    const Shape& shape = problem_.shape;
    for (int64_t first = 0; first < shape.d; first += shape.block_size) {
      const int64_t end = std::min(shape.d, first + shape.block_size);
      if (prunes(problem_.params)) check_choice(first, end);
      for (int64_t row = 0; row < shape.rows; ++row) {
        for (int64_t step = first; step < end; ++step) check_column(row, step);
      }
    }
    for (int64_t row = 0; row < shape.rows; ++row) check_loss(row);
  }

 private:
  double R(int64_t l, int64_t j) const { return problem_.factor[l * problem_.shape.d + j]; }
  int64_t at(int64_t row, int64_t step) const {
    return row * problem_.shape.d + problem_.perm[step];
  }
  double& error(int64_t row, int64_t step) { return error_[row * problem_.shape.d + step]; }
  double slack(int64_t terms) const { return problem_.shape.exact ? 0.0 : rounding<T>(terms); }

  // w_j + sum_{l<j} (w_l - q_l) R_lj / R_jj
  Sum target(int64_t row, int64_t step) {
    const double w = problem_.weight[at(row, step)];
    Sum sum{w, std::abs(w)};
    for (int64_t l = 0; l < step; ++l) {
      const double term = error(row, l) * R(l, step) / R(step, step);
      sum.value += term, sum.size += std::abs(term);
    }
    return sum;
  }

  void check_column(int64_t row, int64_t step) {
    const ObsQuantizeParams<T>& params = problem_.params;
    const int64_t here = at(row, step);
    const std::string where = join("row ", row, ", step ", step);
    const Sum want = target(row, step);
    const double error_bound = slack(step + 1) * want.size, q = answer_.quantized[here];
    const bool pruned = prunes(params)
                            ? !answer_.kept[here]
                            : problem_.shape.prune == Prune::mask && !problem_.mask[here];
    double level = want.value;
    if (params.bits > 0) {
      const int64_t group = row * params.groups + problem_.group[problem_.perm[step]];
      const double scale = problem_.scale[group], zero = problem_.zero_point[group];
      const double top = (1 << params.bits) - 1, code = answer_.codes[here];
      level = std::clamp(want.value / scale + zero, 0.0, top);
      test_.within(std::abs(code - level) - 0.5,
                   error_bound / scale + slack(2) * (std::abs(want.value) / scale + zero),
                   where + ", code");
      if (problem_.shape.exact)
        test_.expect(code == std::nearbyint(level), where + ": tie not to even");
      level = static_cast<T>((code - zero) * scale);
    }
    if (pruned) {
      test_.expect(q == 0, where + ": pruned but not zero");
    } else if (params.bits > 0) {
      test_.expect(q == level, where + ": not the value of its code");
    } else {
      test_.within(std::abs(q - level), error_bound, where + ", free value");
    }
    error(row, step) = static_cast<double>(problem_.weight[here]) - q;
  }

  // Square roots of the scores, assuming that no column of the block is pruned.
  std::vector<Sum> score_block(int64_t first, int64_t end) {
    std::vector<Sum> scores;
    const std::vector<double> before = error_;
    for (int64_t row = 0; row < problem_.shape.rows; ++row) {
      for (int64_t step = first; step < end; ++step) {
        const Sum free = target(row, step);
        error(row, step) = problem_.weight[at(row, step)] - free.value;
        scores.push_back({std::abs(free.value * R(step, step)), free.size * R(step, step)});
      }
    }
    error_ = before;
    return scores;
  }

  // Of `places` [row * width + column], the `count` with the least scores are pruned; `earlier_go`
  // decides between equal scores.
  void check_least(const std::vector<Sum>& scores, std::vector<int64_t> places, int64_t count,
                   bool earlier_go, int64_t first, int64_t width) {
    const auto kept = [&](int64_t place) {
      return answer_.kept[at(place / width, first + place % width)];
    };
    double dearest_gone = 0, cheapest_kept = std::numeric_limits<double>::infinity(), size = 0;
    int64_t gone = 0;
    for (const int64_t place : places) {
      const double score = scores[place].value;
      test_.expect(kept(place) <= 1, "kept is not written");
      if (kept(place)) cheapest_kept = std::min(cheapest_kept, score);
      if (!kept(place)) dearest_gone = std::max(dearest_gone, score);
      gone += !kept(place);
      size = std::max(size, scores[place].size);
    }
    test_.expect(gone == count, join("block ", first, ": ", gone, " pruned, expected are ", count));
    test_.within(dearest_gone - cheapest_kept, slack(first + width) * size,
                 join("block ", first, ", choice"));
    if (!problem_.shape.exact) return;
    if (!earlier_go) std::reverse(places.begin(), places.end());
    std::stable_sort(places.begin(), places.end(),
                     [&](int64_t a, int64_t b) { return scores[a].value < scores[b].value; });
    for (int64_t i = 0; i < static_cast<int64_t>(places.size()); ++i) {
      test_.expect(kept(places[i]) == (i >= count),
                   join("block ", first, ": the wrong one of equals"));
    }
  }

  void check_choice(int64_t first, int64_t end) {
    const ObsQuantizeParams<T>& params = problem_.params;
    const int64_t width = end - first;
    const std::vector<Sum> scores = score_block(first, end);
    if (params.of_m == 0) {
      std::vector<int64_t> places(scores.size());
      std::iota(places.begin(), places.end(), 0);
      const auto due =
          [&](int64_t columns) {  // share of the quota for this number of columns, rounded half up
            return (2 * params.num_pruned * columns + params.d) / (2 * params.d);
          };
      check_least(scores, places, due(end) - due(first), true, first, width);
      return;
    }
    std::vector<int64_t> places(params.of_m);
    for (int64_t start = 0; start < static_cast<int64_t>(scores.size()); start += params.of_m) {
      std::iota(places.begin(), places.end(), start);
      check_least(scores, places, params.of_m - params.keep_n, false, first, width);
    }
  }

  // 1/2 |(w - q) R|^2
  void check_loss(int64_t row) {
    double loss = 0, size = 0;
    for (int64_t j = 0; j < problem_.shape.d; ++j) {
      Sum sum{0, 0};
      for (int64_t l = 0; l <= j; ++l) {
        const double term = error(row, l) * R(l, j);
        sum.value += term, sum.size += std::abs(term);
      }
      const double weight =
          std::abs(problem_.weight[at(row, j)]) * R(j, j);  // this term cancels in the kernel
      loss += 0.5 * sum.value * sum.value;
      size += 0.5 * std::pow(sum.size + 2 * weight, 2);
    }
    test_.within(std::abs(answer_.loss[row] - loss), slack(problem_.shape.d) * size,
                 join("row ", row, ", loss"));
  }

  Case& test_;
  const Problem<T>& problem_;
  const Answer<T>& answer_;
  std::vector<double> error_;  // w - q, by step
};

template <class T>
void check(Random& random, const Shape& shape, Isa isa, Tally& tally) {
  const Problem<T> problem = draw<T>(random, shape);
  Case test(tally,
            join(kTypeName<T>, ", rows ", shape.rows, ", d ", shape.d, ", block_size ",
                 shape.block_size, ", group_size ", shape.group_size, ", bits ", shape.bits,
                 kPruneName[static_cast<int>(shape.prune)], " ", problem.params.num_pruned, " ",
                 problem.params.keep_n, ":", problem.params.of_m, shape.exact ? ", exact" : ""));
  const Answer<T> answer = run(problem, isa, 1);
  Follower<T>(test, problem, answer).follow();
  test.expect(run(problem, isa, 2) == answer, "two threads give another answer");
}

template <class T>
void check_type(Isa isa, bool quick, Tally& tally) {
  Random random(6);
  for (const Prune prune : {Prune::none, Prune::mask, Prune::count, Prune::pattern}) {
    for (int bits = 0; bits <= 8; ++bits) {
      for (const bool exact : {false, true}) {
        const int64_t d = random.integer(1, quick ? 8 : 16) * 4;
        const int64_t block_size = random.integer(1, 6) * 4;  // seldom divides d
        const int64_t rows = random.integer(1, quick ? 30 : 60);
        check<T>(random, {rows, d, block_size, random.integer(1, d), bits, prune, exact}, isa,
                 tally);
      }
    }
  }
  for (const int64_t size : ragged_sizes(quick)) {
    for (const Prune prune : {Prune::none, Prune::mask, Prune::count, Prune::pattern}) {
      const int bits = static_cast<int>(random.integer(0, 8));
      const int64_t other = random.integer(1, size > 200 ? 2 : 12);
      const int64_t block_size = random.chance(0.5) ? 128 : random.integer(1, size);
      check<T>(random, {other, size, block_size, size, bits, prune, false}, isa, tally);
      check<T>(random, {size, other, other, other, bits, prune, false}, isa, tally);
    }
  }
}

}  // namespace

void check_obs_quantize(Isa isa, bool quick, Tally& tally) {
  check_type<float>(isa, quick, tally);
  check_type<double>(isa, quick, tally);
}

}  // namespace sbc::check
