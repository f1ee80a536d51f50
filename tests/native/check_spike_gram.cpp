// The Gram kernels against their definition in input.h, integer for integer.

#include <algorithm>
#include <cstdlib>
#include <functional>

#include "check.h"
#include "gram_problems.h"
#include "spike_gram/bytes.h"
#include "spike_gram/counts.h"
#include "spike_gram/tables.h"

namespace sbc::check {
namespace {
// An algorithm's params around the problem's input.
template <class Params>
Params params_of(const Problem& problem) {
  Params params{};
  static_cast<GramInput&>(params) = problem.input;
  return params;
}

// out[s, c, z] += sum over t, n, p of x[t, n, p + s, c] * (K x)[t, n, p, z]; where squared, of
// (M x)[t, n, p, c] * (M x)[t, n, p, z].
void add_naive_sum(const Problem& problem, const GramRegion& region, int64_t group, double* out) {
  const GramInput& g = problem.input;
  const auto x = [&](int64_t t, int64_t n, int64_t p, int64_t c) -> double {
    return g.spikes[((t * g.N + n) * g.P + p) * g.C + g.first_channel + group * g.channels + c];
  };
  const auto K = [&](int64_t t, int64_t u) -> double {
    return problem.filter.empty() ? problem.pair_weights[t * g.T + u] : problem.filter[t * g.T + u];
  };
  std::vector<double> filtered(g.channels);
  for (int64_t n = 0; n < g.N; ++n) {
    for (int64_t i = 0; i < region.num_positions; ++i) {
      const int64_t p = region.positions[i];
      for (int64_t t = 0; t < g.T; ++t) {
        for (int64_t z = 0; z < g.channels; ++z) {
          filtered[z] = 0;
          for (int64_t u = 0; u < g.T; ++u) filtered[z] += K(t, u) * x(u, n, p, z);
        }
        for (int64_t s = 0; s < region.num_shifts; ++s) {
          const int64_t there = region.neighbours[s * g.P + p];
          for (int64_t c = 0; c < g.channels && there >= 0; ++c) {
            double* row = out + (s * g.channels + c) * g.channels;
            const double spike = problem.squared ? filtered[c] : x(t, n, there, c);
            for (int64_t z = 0; z < g.channels; ++z) row[z] += spike * filtered[z];
          }
        }
      }
    }
  }
}

// `way` says how, for the failures' sake.
void run(Problem& problem, const Shape& shape, const std::string& way,
         const std::vector<int>& thread_counts, Tally& tally,
         const std::function<void(int)>& gram) {
  const GramInput& input = problem.input;
  const double finish = problem.finish;
  std::vector<std::vector<double>> expected = problem.before;
  for (int64_t r = 0; r < shape.regions; ++r) {
    if (finish != 0) expected[r].assign(expected[r].size(), 0.0);
    for (int64_t group = 0; group < shape.groups; ++group) {
      const int64_t size = shape.shifts * shape.channels * shape.channels;
      add_naive_sum(problem, problem.regions[r], group, expected[r].data() + group * size);
    }
    for (double& value : expected[r]) value *= finish != 0 ? finish : 1;
  }
  for (const int threads : thread_counts) {
    Case test(tally, join("T ", shape.T, ", N ", shape.N, ", P ", shape.P, ", channels ",
                          shape.first_channel, "+", shape.groups, " x ", shape.channels, " of ",
                          shape.C(), ", regions ", shape.regions, ", shifts ", shape.shifts, ", ",
                          way, input.triangle ? ", triangle" : "", finish != 0 ? ", finish" : "",
                          ", threads ", threads));
    for (int64_t r = 0; r < shape.regions; ++r) {
      std::copy(problem.before[r].begin(), problem.before[r].end(), problem.out[r].begin());
      if (finish != 0) std::fill(problem.out[r].begin(), problem.out[r].end(), kNaN<double>);
    }
    gram(threads);
    for (int64_t r = 0; r < shape.regions; ++r) {
      for (size_t i = 0; i < expected[r].size(); ++i) {
        if (problem.out[r][i] == expected[r][i]) continue;
        const int64_t row = static_cast<int64_t>(i) / shape.channels;
        const int64_t z = static_cast<int64_t>(i) % shape.channels;
        if (input.triangle && finish == 0 && row > z) continue;  // left undefined
        test.expect(false, join("region ", r, ", row ", row, ", column ", z, " is ",
                                problem.out[r][i], ", expected is ", expected[r][i]));
        break;
      }
    }
  }
}

void check_pairs(Random& random, Isa isa, const Shape& shape, Fill fill, bool triangle,
                 Tally& tally) {
  Problem problem = draw_shaped(random, shape, triangle);
  draw_spikes(random, kPairs, fill, problem);
  draw_pair_weights(random, shape.T, fill, problem.pair_weights);
  PairTablesParams tables = params_of<PairTablesParams>(problem);
  tables.pair_weights = problem.pair_weights.data();
  run(problem, shape, join("pair tables", kFillName[static_cast<int>(fill)]), {1, 2}, tally,
      [&](int threads) { gram_pair_tables(tables, isa, threads); });
  if (!triangle) return;
  // What is to be finished is exact before: weights are eighths.
  for (const double finish : {0.0, 2.0 / 3}) {
    problem.finish = finish;
    CountsParams counts = params_of<CountsParams>(problem);
    counts.pair_weights = problem.pair_weights.data(), counts.finish = finish;
    run(problem, shape, join("counts", kFillName[static_cast<int>(fill)]), {2}, tally,
        [&](int threads) { gram_counts(counts, isa, threads); });
  }
}

void check(Random& random, Isa isa, const Shape& shape, const Width& width, Fill fill,
           bool triangle, Tally& tally) {
  if (width.by_pairs()) return check_pairs(random, isa, shape, fill, triangle, tally);
  if (width.value_bound() < 1) return;
  Problem problem = draw_shaped(random, shape, triangle);
  draw_spikes(random, width, fill, problem);
  const int64_t largest = width.largest_spike();
  const int64_t row_sum = draw_filter(random, shape.T, width.value_bound() / largest,
                                      width.lane_bytes > 1, fill, problem.filter);
  TablesParams params = params_of<TablesParams>(problem);
  params.matched_filter = problem.filter.data();
  params.lane_bytes = width.lane_bytes, params.planes = width.planes;
  params.is_signed = width.is_signed;
  params.max_term = (std::max<int64_t>(row_sum, 1) * largest) << (width.planes - 1);
  run(problem, shape,
      join("tables, lane bytes ", width.lane_bytes, ", planes ", width.planes,
           width.is_signed ? ", signed" : "", kFillName[static_cast<int>(fill)]),
      {1, 2}, tally, [&](int threads) { gram_tables(params, isa, threads); });
}

// With fewer samples where more would leave the 53 bits of a double.
void check(Random& random, Isa isa, Shape shape, const Bytes& bytes, Fill fill,
           const std::vector<int>& thread_counts, Tally& tally) {
  const int64_t most = ((int64_t{1} << 53) - 1000) / bytes.sum_bound();  // 1000: what was there
  if (most < 1 || bytes.bound < bytes.largest_spike) return;
  shape.T = std::min(shape.T, most);
  shape.N = std::min(shape.N, most / shape.T);
  shape.P = std::min(shape.P, most / (shape.T * shape.N));
  const bool triangle =
      shape.shifts == 1 && shape.groups == 1 && (bytes.squared || random.chance(0.7));
  const double finish = triangle && random.chance(0.5) ? 2.0 / 3 : 0.0;
  Problem problem = draw_shaped(random, shape, triangle);
  problem.squared = bytes.squared, problem.finish = finish;
  draw_by_bytes(random, shape, bytes, fill, problem);
  BytesParams params = params_of<BytesParams>(problem);
  params.filter = problem.filter.data();
  params.digits = bytes.digits(), params.max_term = bytes.bound;
  params.is_signed = bytes.is_signed, params.squared = bytes.squared;
  params.finish = finish;
  run(problem, shape,
      join("bytes, digits ", bytes.digits(), ", bound ", bytes.bound,
           bytes.is_signed ? ", signed" : "", bytes.squared ? ", squared" : "", ", spikes to ",
           bytes.largest_spike, kFillName[static_cast<int>(fill)]),
      thread_counts, tally, [&](int threads) { gram_bytes(params, isa, threads); });
}

Shape draw_shape(Random& random, int64_t channels, bool conv) {
  Shape shape{};
  shape.T = random.integer(1, 5);
  shape.N = random.integer(1, 5);
  shape.P = conv ? random.integer(2, 7) : random.integer(1, 3);
  shape.first_channel = random.integer(0, 9);
  shape.channels = channels;
  shape.more_channels = random.integer(0, 3);
  shape.regions = conv ? random.integer(1, 3) : 1;
  shape.shifts = conv ? random.integer(2, 5) : 1;
  return shape;
}

Shape draw_shape(Random& random, int64_t T, int64_t channels, bool conv) {
  Shape shape = draw_shape(random, channels, conv);
  shape.T = T;
  return shape;
}

void check_by_bytes(Isa isa, bool quick, Tally& tally) {
  Random random(4);
  // One only where time is short: products of bytes in plain C++ are slow.
  const std::vector<int> threads = quick ? std::vector<int>{2} : std::vector<int>{1, 2, 5};
  const auto draw_channels = [&] { return random.integer(1, quick ? 20 : 70); };
  for (const bool is_signed : {false, true}) {
    // Every number of digits to the last bit and one past it. Up to 2^24 Z is found in floats, then
    // in doubles; below 2^31 it is cut up in words of 32 bits.
    std::vector<int64_t> bounds{1, int64_t{1} << 50};
    for (int digits = 1; digits <= 6; ++digits) {
      bounds.insert(bounds.end(), {brim(digits, is_signed), brim(digits, is_signed) + 1});
    }
    for (const int bits : {24, 31}) {
      for (const int more : {-1, 0, 1}) bounds.push_back((int64_t{1} << bits) + more);
    }
    for (const int64_t bound : bounds) {
      for (const int64_t spike : {1, is_signed ? 128 : 127}) {
        for (const Fill fill : {Fill::random, Fill::saturated}) {
          const bool conv = random.chance(0.4);
          const Shape shape = draw_shape(random, random.integer(1, 20), draw_channels(), conv);
          check(random, isa, shape, Bytes{bound, is_signed, false, spike}, fill, threads, tally);
        }
      }
    }
    // Z'Z; and every T, of which a unit holds as many quartets as fill whole steps of 16.
    for (int64_t T = 1; T <= 20; ++T) {
      const int64_t spike = random.integer(1, is_signed ? 127 : 255);
      const Bytes squared{is_signed ? 127 : 255, is_signed, true, std::min<int64_t>(spike, 127)};
      const Bytes filtered{random.integer(1, 1 << 20), is_signed, false, 1};
      for (const Fill fill : {Fill::random, Fill::saturated}) {
        check(random, isa, draw_shape(random, T, draw_channels(), false), squared, fill, threads,
              tally);
        check(random, isa, draw_shape(random, T, draw_channels(), T % 2), filtered, fill, threads,
              tally);
      }
    }
  }
  // Every raggedness of the channels: tiles of 16, panels of 32.
  std::vector<int64_t> sizes = ragged_sizes(quick);
  sizes.insert(sizes.end(), {16, 17, 31, 33, 48});
  for (const int64_t channels : sizes) {
    const bool is_signed = random.chance(0.5);
    for (const bool conv : {false, true}) {
      const Shape shape =
          draw_shape(random, random.integer(1, 4), channels, conv && channels < 200);
      check(random, isa, shape, {random.integer(200, 1 << 20), is_signed, false}, Fill::random,
            threads, tally);
    }
    Shape shape = draw_shape(random, random.integer(1, 4), channels, false);
    check(random, isa, shape, {is_signed ? 127 : 255, is_signed, true}, Fill::random, threads,
          tally);
    shape.T = 1;  // X as it is, to its last bit
    for (const bool squared : {false, true}) {
      check(random, isa, shape,
            {is_signed ? 128 : 127, is_signed, squared, is_signed ? 128 : 127, true}, Fill::random,
            threads, tally);
    }
  }
  check(random, isa, draw_shape(random, 3, 20, false), Bytes{1, false, false}, Fill::silent,
        threads, tally);
  if (quick) return;
  // A block holds 16384 samples, or a unit of 64 * T: of T = 521 its sums leave 32 bits. Or it
  // holds 60 MiB of them, as here with many shifts. A task holds 16 x 16 panels of 32 channels.
  const Shape linear{1, 20000, 1, 0, 3, 0, 1, 1}, conv{2, 3000, 8, 1, 2, 1, 2, 3};
  const Shape deep{521, 21, 6, 0, 3, 0, 1, 1}, shifted{1, 7000, 1, 0, 2, 0, 1, 600};
  const Shape wide{2, 5, 1, 2, 530, 0, 1, 1};
  for (const bool is_signed : {false, true}) {
    const Bytes squared{is_signed ? 127 : 255, is_signed, true}, filtered{30000, is_signed, false};
    for (const Fill fill : {Fill::random, Fill::saturated}) {
      check(random, isa, linear, squared, fill, threads, tally);
      check(random, isa, linear, filtered, fill, threads, tally);
      check(random, isa, conv, filtered, fill, threads, tally);
    }
    for (const Bytes& bytes : {squared, filtered}) {
      check(random, isa, deep, bytes, Fill::saturated, {2}, tally);
      check(random, isa, wide, bytes, Fill::random, threads, tally);
    }
  }
  check(random, isa, shifted, Bytes{200, false, false}, Fill::random, {2}, tally);
}

// Groups of few channels are summed together: as many as fit in a tile, one more, and one too wide.
void check_groups(Random& random, Isa isa, bool quick, Tally& tally) {
  for (const int64_t channels : {1, 2, 5, 17, 70}) {
    for (const int64_t groups : {2, 3, quick ? 20 : 67}) {
      if (channels * groups > 400) continue;
      Shape shape = draw_shape(random, channels, true);
      shape.groups = groups;
      for (const int lane_bytes : {1, 2, 4, 8}) {
        const Width width{lane_bytes, 1, lane_bytes > 1 && random.chance(0.5)};
        check(random, isa, shape, width, Fill::random, false, tally);
      }
      check(random, isa, shape, kPairs, Fill::random, false, tally);
      const Bytes bytes{random.integer(200, 1 << 20), random.chance(0.5), false};
      check(random, isa, shape, bytes, Fill::random, {2}, tally);
    }
  }
}

}  // namespace

void check_spike_gram(Isa isa, bool quick, Tally& tally) {
  Random random(1);
  // Every width of lane and every number of planes that fits in it, up to the last bit.
  for (const int lane_bytes : {1, 2, 4, 8}) {
    for (int planes = 1; planes <= 8; ++planes) {
      for (const bool is_signed : {false, true}) {
        for (const Fill fill : {Fill::random, Fill::saturated}) {
          const bool conv = random.chance(0.5);
          const Shape shape = draw_shape(random, random.integer(1, quick ? 20 : 70), conv);
          check(random, isa, shape, Width{lane_bytes, planes, is_signed}, fill, !conv, tally);
        }
      }
    }
  }
  // Every raggedness of the channels, in every width of lane and by pairs.
  for (const int64_t channels : ragged_sizes(quick)) {
    for (const int lane_bytes : {1, 2, 4, 8}) {
      const bool conv = random.chance(0.5) && channels < 200;
      const Width width{lane_bytes, lane_bytes == 1 ? 1 : static_cast<int>(random.integer(1, 3)),
                        lane_bytes > 1 && random.chance(0.5)};
      const bool triangle = !conv && random.chance(0.7);
      check(random, isa, draw_shape(random, channels, conv), width, Fill::random, triangle, tally);
    }
    for (const Fill fill : {Fill::random, Fill::saturated, Fill::silent}) {
      for (const bool conv : {false, true}) {
        Shape shape = draw_shape(random, channels, conv);
        shape.N *= channels > 60 ? 1 : 12;
        check(random, isa, shape, kPairs, fill, !conv && random.chance(0.8), tally);
      }
    }
  }
  check(random, isa, draw_shape(random, 20, false), Width{1, 1, false}, Fill::silent, true, tally);
  check_by_bytes(isa, quick, tally);
  check_groups(random, isa, quick, tally);
  if (quick) return;
  // What a block holds is 16384 samples, and 9252 fill the second sums of one-byte lanes.
  const Shape linear{1, 20000, 1, 0, 3, 0, 1, 1}, conv{2, 1100, 8, 1, 2, 1, 2, 3};
  for (const Fill fill : {Fill::random, Fill::saturated}) {
    for (const Width& width : {Width{1, 1, false}, Width{2, 8, true}, kPairs}) {
      check(random, isa, linear, width, fill, true, tally);
      check(random, isa, conv, width, fill, false, tally);
    }
  }
  // One image larger than a block, by pairs with the 65520 samples that fill its second sums; and
  // more rows, 25 * 130, than one task may take.
  const Shape deep{3, 2, 9000, 0, 2, 0, 1, 1}, deeper{1, 1, 66000, 0, 2, 0, 1, 1};
  const Shape wide{2, 1, 9, 3, 130, 0, 1, 25};
  check(random, isa, deep, {1, 1, false}, Fill::random, true, tally);
  check(random, isa, deeper, kPairs, Fill::saturated, true, tally);
  check(random, isa, wide, {2, 1, false}, Fill::random, false, tally);
  check(random, isa, wide, kPairs, Fill::random, false, tally);
}

}  // namespace sbc::check
