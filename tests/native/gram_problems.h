// Random problems for the checks of the Gram kernels: shapes, widths, spikes and filters.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "check.h"
#include "spike_gram/input.h"

namespace sbc::check {

constexpr int64_t kPassTerms = 36;  // so many terms must fit in a lane (tables.h)

struct Shape {
  int64_t T, N, P, first_channel, channels, more_channels;
  int64_t regions, shifts;
  int64_t groups = 1;  // of `channels` channels each
  int64_t C() const { return first_channel + groups * channels + more_channels; }
};

// How wide a lane is, and how large the values that enter it may then be. No bytes: by pairs.
struct Width {
  int lane_bytes, planes;
  bool is_signed;

  bool by_pairs() const { return lane_bytes == 0; }
  int64_t term_bound() const {
    const int64_t lane_max = lane_bytes == 1 ? 255 : INT64_MAX >> (64 - 8 * lane_bytes);
    return lane_max / kPassTerms;
  }
  // Of |K x|. 0: this many planes do not fit. With 2^37, spikes of 2^7 and 2^9 samples the answers
  // stay below 2^53, where doubles hold integers.
  int64_t value_bound() const {
    if (by_pairs()) return 1;
    if (is_signed && lane_bytes == 1) return 0;  // those lanes are unsigned
    return std::min(term_bound() >> (planes - 1), int64_t{1} << 37);
  }
  int64_t largest_spike() const {
    const int64_t range = is_signed ? int64_t{1} << (planes - 1) : (int64_t{1} << planes) - 1;
    return std::min({range, value_bound(), int64_t{is_signed ? 128 : 127}});
  }
};
constexpr Width kPairs{0, 1, false};

// What goes by bytes: Z = F X, its digits as few as hold it. squared: Z' Z, F causal.
struct Bytes {
  int64_t bound;  // of sum_u |F[t, u] x[u]|
  bool is_signed, squared;
  int64_t largest_spike = 1;
  bool as_it_is = false;  // T = 1 and F = 1: then -128 is one byte

  int digits() const {
    if (as_it_is) return 1;
    int bits = is_signed ? 1 : 0;
    for (int64_t rest = bound; rest > 0; rest >>= 1) ++bits;
    return (bits + 7) / 8;
  }
  // Of what one sample adds to a sum on its way. Digits below a signed one come after it.
  int64_t sum_bound() const {
    const int64_t unit = is_signed ? int64_t{1} << (8 * (digits() - 1)) : 0;
    return squared ? bound * bound : (bound + unit) * largest_spike;
  }
};
// The last value that so many digits hold.
inline int64_t brim(int digits, bool is_signed) {
  return (int64_t{1} << (8 * digits - is_signed)) - 1;
}

// saturated: every sum is as large as its lane or its digits allow. silent: K = 0, a membrane that
// has not begun to answer.
enum class Fill { random, saturated, silent };
constexpr const char* kFillName[] = {"", ", saturated", ", silent"};

struct Problem {
  GramInput input{};
  std::vector<int8_t> spikes;
  std::vector<int64_t> filter;  // or else pair_weights
  std::vector<double> pair_weights;
  bool squared = false;
  double finish = 0;
  std::vector<std::vector<int32_t>> positions, neighbours;
  std::vector<std::vector<double>> before, out;
  std::vector<GramRegion> regions;
};

// All but the spikes' values and the filter.
Problem draw_shaped(Random& random, const Shape& shape, bool triangle);

// Binary spikes, or as many planes of them as fit.
void draw_spikes(Random& random, const Width& width, Fill fill, Problem& problem);

// K by filter: symmetric, rows of sizes summing to at most `row_sum`, saturated ones to just that.
// Returns the largest such sum.
int64_t draw_filter(Random& random, int64_t T, int64_t row_sum, bool negative, Fill fill,
                    std::vector<int64_t>& filter);

// K by pairs: any floats. Eighths, so that the sums are exact and need no error bound.
void draw_pair_weights(Random& random, int64_t T, Fill fill, std::vector<double>& weights);

// Spikes and filter for products of bytes. Signed: channels at either end of the range in turns, or
// a filter below 0 for spikes above it.
void draw_by_bytes(Random& random, const Shape& shape, const Bytes& bytes, Fill fill,
                   Problem& problem);

}  // namespace sbc::check
