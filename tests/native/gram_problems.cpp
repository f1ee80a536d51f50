#include "gram_problems.h"

#include <cstdlib>

namespace sbc::check {
namespace {

// The neighbours are any map from positions to positions, -1 included; a convolution's are some.
void draw_regions(Random& random, const Shape& shape, Problem& problem) {
  for (int64_t r = 0; r < shape.regions; ++r) {
    auto& positions = problem.positions.emplace_back();
    for (int32_t p = 0; p < shape.P; ++p) {
      if (shape.regions == 1 || random.chance(0.6)) positions.push_back(p);
    }
    if (positions.empty()) positions.push_back(0);
    auto& neighbours = problem.neighbours.emplace_back(shape.shifts * shape.P);
    for (int64_t i = 0; i < shape.shifts * shape.P; ++i) {
      const bool stays = shape.shifts == 1;
      neighbours[i] = static_cast<int32_t>(stays ? i : random.integer(-1, shape.P - 1));
    }
    auto& before =
        problem.before.emplace_back(shape.groups * shape.shifts * shape.channels * shape.channels);
    for (double& value : before)
      value = static_cast<double>(random.integer(-1000, 1000));  // sums add to what is there
  }
  problem.out = problem.before;
  for (int64_t r = 0; r < shape.regions; ++r) {
    problem.regions.push_back({problem.positions[r].data(),
                               static_cast<int64_t>(problem.positions[r].size()),
                               problem.neighbours[r].data(), shape.shifts, problem.out[r].data()});
  }
}

// M by filter: causal, rows of sizes summing to at most `row_sum`.
void draw_causal_filter(Random& random, int64_t T, int64_t row_sum, bool negative, Fill fill,
                        std::vector<int64_t>& filter) {
  filter.assign(T * T, 0);
  for (int64_t t = 0; t < T; ++t) {
    const int64_t each = row_sum / (t + 1);
    for (int64_t u = 0; u <= t; ++u) {
      int64_t value = each + (t == u ? row_sum - each * (t + 1) : 0);
      if (fill == Fill::random) value = random.integer(negative ? -value : 0, value);
      filter[t * T + u] = fill == Fill::silent ? 0 : value;
    }
  }
}

}  // namespace

int64_t draw_filter(Random& random, int64_t T, int64_t row_sum, bool negative, Fill fill,
                    std::vector<int64_t>& filter) {
  const int64_t each = row_sum / T;
  std::vector<int64_t> row_sums(T);
  filter.assign(T * T, 0);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t u = t; u < T; ++u) {
      int64_t value = each + (t == u ? row_sum - each * T : 0);
      if (fill == Fill::random) value = random.integer(negative ? -value : 0, value);
      if (fill == Fill::silent) value = 0;
      filter[t * T + u] = filter[u * T + t] = value;
      row_sums[t] += std::abs(value);
      row_sums[u] += t == u ? 0 : std::abs(value);
    }
  }
  return *std::max_element(row_sums.begin(), row_sums.end());
}

void draw_pair_weights(Random& random, int64_t T, Fill fill, std::vector<double>& weights) {
  weights.assign(T * T, fill == Fill::silent ? 0.0 : 1.0);
  for (int64_t t = 0; t < T && fill == Fill::random; ++t) {
    for (int64_t u = t; u < T; ++u) {
      const double weight =
          random.chance(0.2) ? 0.0 : static_cast<double>(random.integer(-64, 64)) / 8;
      weights[t * T + u] = weights[u * T + t] = weight;
    }
  }
}

Problem draw_shaped(Random& random, const Shape& shape, bool triangle) {
  Problem problem;
  problem.spikes.resize(shape.T * shape.N * shape.P * shape.C());
  draw_regions(random, shape, problem);
  GramInput& input = problem.input;
  input.spikes = problem.spikes.data();
  input.T = shape.T, input.N = shape.N, input.P = shape.P, input.C = shape.C();
  input.first_channel = shape.first_channel, input.channels = shape.channels;
  input.groups = shape.groups;
  input.triangle = triangle;
  input.regions = problem.regions.data(), input.num_regions = shape.regions;
  return problem;
}

void draw_spikes(Random& random, const Width& width, Fill fill, Problem& problem) {
  const int64_t largest = width.largest_spike();
  const int64_t low = width.is_signed ? -largest : 0;
  const int64_t high =
      width.is_signed ? std::min(largest, (int64_t{1} << (width.planes - 1)) - 1) : largest;
  for (int8_t& spike : problem.spikes) {
    const int64_t extreme = width.is_signed ? low : high;
    spike = static_cast<int8_t>(fill == Fill::saturated ? extreme : random.integer(low, high));
  }
}
void draw_by_bytes(Random& random, const Shape& shape, const Bytes& bytes, Fill fill,
                   Problem& problem) {
  const int64_t largest = bytes.largest_spike, row_sum = bytes.bound / largest;
  const bool below_zero = bytes.is_signed && (bytes.as_it_is || random.chance(0.7));
  const int64_t low = below_zero ? -largest : 0, high = std::min(largest, int64_t{127});
  for (size_t i = 0; i < problem.spikes.size(); ++i) {
    const int64_t extreme = below_zero && i % shape.C() % 2 == 0 ? low : high;
    problem.spikes[i] =
        static_cast<int8_t>(fill == Fill::saturated ? extreme : random.integer(low, high));
  }
  if (bytes.as_it_is) {
    problem.filter = {1};
  } else if (bytes.squared) {
    draw_causal_filter(random, shape.T, row_sum, bytes.is_signed, fill, problem.filter);
  } else {
    draw_filter(random, shape.T, row_sum, bytes.is_signed, fill, problem.filter);
  }
  if (bytes.is_signed && !below_zero) {
    for (int64_t& value : problem.filter) value = -std::abs(value);
  }
}

}  // namespace sbc::check
