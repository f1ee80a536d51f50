// Compares the CUDA panel, compiled for the host, with pivots taken one at a time in the same
// arithmetic; the results must be bit-identical. Elimination in double precision then checks the
// accuracy of that arithmetic.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "check.h"
#include "obs_order/cuda_panel.h"
#include "on_host/host_gpu.h"

namespace sbc::check {
namespace {

using host_gpu::Device;
using host_gpu::Turns;

constexpr float kNot = kNaN<float>;
constexpr int32_t kUntouched = -7;

int64_t rounded_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Offset of entry [i, j], i <= j, in a packed triangle, which has no tiles below the diagonal.
int64_t packed_at(int64_t i, int64_t j, int64_t width, int64_t tile) {
  int64_t skipped = 0;
  for (int64_t band = 0; band < i / tile; ++band) skipped += band * tile * tile;
  skipped += i / tile * tile * (i % tile + 1);
  return i * width + j - skipped;
}

// Symmetric matrices [size, size]. The problems take pieces along the diagonal.
struct Source {
  int64_t size;
  std::vector<float> entries;
  float at(int64_t i, int64_t j) const { return entries[i * size + j]; }
};

struct Shape {
  int64_t m, count, rows, tile;
  int64_t extra_width = 0;  // of the lines of a square matrix
  bool aligned = true;      // whether lines are aligned to vectors
};

// Arrays of a launch. NaN marks entries that must not be read, kUntouched those that must not be
// written.
struct Problem {
  Shape shape;
  int64_t padded, side, depth, width, matrix_stride, done, num_pruned;
  std::vector<float> matrix, weight, diagonal, floor, lines, unit, loss;
  std::vector<int32_t> state, ids, order;

  Problem(Random& random, const Source& source, const Shape& of);
  float entry(const Source& source, int64_t row, int64_t i, int64_t j) const {
    const int64_t from = shape.tile == 0 ? 0 : row;  // each row has a triangle of its own
    return source.at(from + i, from + j);
  }
  OrderPanelParams params();
};

Problem::Problem(Random& random, const Source& source, const Shape& of) : shape(of) {
  const auto [m, count, rows, tile, extra_width, aligned] = of;
  padded = rounded_up(m, kPanelAlign);
  side = padded + 4 * random.integer(0, 9);
  depth = rounded_up(count, 16);
  width = tile == 0 ? m + extra_width : rounded_up(m, tile);
  matrix_stride = tile == 0 ? 0 : width * (width + tile) / 2 + (aligned ? 0 : 1);
  done = random.integer(0, 5);
  num_pruned = done + count + random.integer(0, 3);

  matrix.assign(tile == 0 ? width * width : rows * matrix_stride, kNot);
  matrix.insert(matrix.begin(), !aligned, kNot);
  for (int64_t row = 0; row < (tile == 0 ? 1 : rows); ++row) {
    float* const to = matrix.data() + !aligned + row * matrix_stride;
    for (int64_t i = 0; i < m; ++i) {
      float* const line = to + (tile == 0 ? i * width : packed_at(i, 0, width, tile));
      for (int64_t j = tile == 0 ? 0 : i; j < m; ++j) line[j] = entry(source, row, i, j);
    }
  }
  weight.assign(rows * side, kNot);
  diagonal = floor = weight;
  state.assign(rows * side, kUntouched);
  ids = state;
  lines.assign(rows * depth * side, kNot);
  for (int64_t row = 0; row < rows; ++row) {
    unit.push_back(static_cast<float>(1 + random.real() / 2));
    for (int64_t i = 0; i < padded; ++i) {
      const int64_t at = row * side + i;
      weight[at] = static_cast<float>(random.real());
      diagonal[at] = i < m ? entry(source, row, i, i) : 1;
      floor[at] = diagonal[at] * std::numeric_limits<float>::epsilon();
      state[at] = i < m ? 0 : 2;
      ids[at] = static_cast<int32_t>(3 * i + row);
    }
  }
  order.assign(rows * num_pruned, kUntouched);
  loss.assign(rows * num_pruned, static_cast<float>(kUntouched));
}

OrderPanelParams Problem::params() {
  return {matrix.data() + !shape.aligned,
          weight.data(),
          diagonal.data(),
          floor.data(),
          state.data(),
          ids.data(),
          lines.data(),
          unit.data(),
          order.data(),
          loss.data(),
          shape.rows,
          matrix_stride,
          depth * side,
          width,
          shape.tile,
          side,
          num_pruned,
          shape.m,
          shape.count,
          done,
          0};
}

// The panel of one row, in float and with the same roundings as the kernel.
void remove_plainly(const Source& source, Problem& problem, int64_t row) {
  const int64_t m = problem.shape.m, padded = problem.padded;
  float* const w = problem.weight.data() + row * problem.side;
  float* const g = problem.diagonal.data() + row * problem.side;
  const float* const lowest = problem.floor.data() + row * problem.side;
  int32_t* const state = problem.state.data() + row * problem.side;
  float* const lines = problem.lines.data() + row * problem.depth * problem.side;
  for (int64_t k = 0; k < problem.shape.count; ++k) {
    int64_t p = -1;
    float least = 0;
    for (int64_t i = 0; i < m; ++i) {
      if (state[i] != 0) continue;
      float score = w[i] * w[i] / g[i];
      if (!(score <= std::numeric_limits<float>::max())) score = std::numeric_limits<float>::max();
      if (p < 0 || score < least) {
        p = i;
        least = score;
      }
    }
    const float scale = 1 / std::sqrt(g[p]), step = w[p] * scale;
    const float size = w[p] * problem.unit[row];
    const int64_t to = row * problem.num_pruned + problem.done + k;
    problem.order[to] = problem.ids[row * problem.side + p];
    problem.loss[to] = size * size / (2 * g[p]);
    state[p] = 2;
    float* const line = lines + k * problem.side;
    for (int64_t i = 0; i < padded; ++i) {
      float known = 0;
      for (int64_t j = 0; j < k; ++j) {
        known = std::fma(lines[j * problem.side + p], lines[j * problem.side + i], known);
      }
      const float column = i < m ? problem.entry(source, row, p, i) : 0;
      line[i] = i == p ? 0 : (column - known) * scale;
    }
    for (int64_t i = 0; i < padded; ++i) {
      w[i] = std::fma(-step, line[i], w[i]);
      g[i] = std::max(lowest[i], std::fma(-line[i], line[i], g[i]));
    }
  }
}

bool same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }
bool same(int32_t a, int32_t b) { return a == b; }

// Entries that were not written are NaN.
template <class T>
bool expect_equal(Case& test, const char* what, const std::vector<T>& found,
                  const std::vector<T>& wanted) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (same(found[i], wanted[i])) continue;
    return test.expect(false, join(what, "[", i, "] is ", found[i], ", not ", wanted[i]));
  }
  return true;
}

std::string describe(const Problem& problem) {
  constexpr const char* kTurns[] = {"ascending", "descending", "shuffled"};
  const Shape& of = problem.shape;
  return join("m ", of.m, ", count ", of.count, ", rows ", of.rows, ", tile ", of.tile, ", width ",
              problem.width, of.aligned ? "" : ", not aligned", ", shared memory ",
              host_gpu::device.shared_of_block, ", ",
              kTurns[static_cast<int>(host_gpu::device.turns)]);
}

void check(Case& test, const Source& source, Problem problem) {
  const Problem before = problem;
  Problem wanted = problem;
  for (int64_t row = 0; row < problem.shape.rows; ++row) remove_plainly(source, wanted, row);
  try {
    order_panel(problem.params(), nullptr);
  } catch (const std::runtime_error& error) {
    test.expect(false, error.what());
    return;
  }
  expect_equal(test, "order", problem.order, wanted.order);
  expect_equal(test, "loss", problem.loss, wanted.loss);
  expect_equal(test, "lines", problem.lines, wanted.lines);
  expect_equal(test, "weight", problem.weight, wanted.weight);
  expect_equal(test, "diagonal", problem.diagonal, wanted.diagonal);
  expect_equal(test, "state", problem.state, wanted.state);
  expect_equal(test, "floor", problem.floor, before.floor);
  expect_equal(test, "ids", problem.ids, before.ids);
  expect_equal(test, "unit", problem.unit, before.unit);
  expect_equal(test, "matrix", problem.matrix, before.matrix);
}

void check(Tally& tally, const Source& source, const Problem& problem) {
  Case test(tally, describe(problem));
  check(test, source, problem);
}

// Shared memory for exactly this number of lines.
void make_room(int64_t lines, int64_t m) {
  Device& device = host_gpu::device;
  const int64_t line_bytes = (rounded_up(m, kPanelAlign) / 4 + 1) * 16;
  device.shared_of_block = static_cast<int>(
      std::min(device.shared_static + lines * line_bytes + 15, int64_t{227} << 10));
}

void set_turns(int number) { host_gpu::device.turns = static_cast<Turns>(number % 3); }

// Removes all weights, each from the current matrix. The square root of a loss is linear in the
// weights, so errors are compared by it.
void check_elimination(Tally& tally, const Source& source, Problem problem) {
  Case test(tally, "by elimination: " + describe(problem));
  const int64_t m = problem.shape.m;
  std::vector<double> w(problem.weight.begin(), problem.weight.begin() + m), G(m * m);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < m; ++j) G[i * m + j] = source.at(i, j);
  }
  order_panel(problem.params(), nullptr);
  const auto root_loss = [&](int64_t i) { return std::abs(w[i]) / std::sqrt(2 * G[i * m + i]); };
  std::vector<char> open(m, 1);
  double dearest = 0;
  for (int64_t i = 0; i < m; ++i) dearest = std::max(dearest, root_loss(i));
  for (int64_t k = 0; k < problem.shape.count; ++k) {
    const int64_t p = problem.order[problem.done + k] / 3;
    if (!test.expect(p >= 0 && p < m && open[p], join("pivot ", k, ": ", p, " may not go"))) return;
    double cheapest = root_loss(p);
    for (int64_t i = 0; i < m; ++i)
      cheapest = open[i] ? std::min(cheapest, root_loss(i)) : cheapest;
    const double bound = rounding<float>(k + 1) * dearest;
    const double loss = std::sqrt(problem.loss[problem.done + k]) / problem.unit[0];
    test.within(root_loss(p) - cheapest, bound, join("pivot ", k, ", not the cheapest"));
    test.within(std::abs(loss - root_loss(p)), bound, join("pivot ", k, ", loss"));
    open[p] = 0;
    for (int64_t i = 0; i < m; ++i) {
      const double factor = G[i * m + p] / G[p * m + p];
      if (!open[i]) continue;
      w[i] -= w[p] * factor;
      for (int64_t j = 0; j < m; ++j) G[i * m + j] -= open[j] ? factor * G[p * m + j] : 0;
    }
  }
}

void check_shapes(Tally& tally, Random& random, const Source& source, bool quick) {
  // Sizes around units, warps, alignments and tiles, and those at which a thread gets one more
  // unit: 1536, 3072, 4608.
  std::vector<int64_t> sizes = {1,  2,  3,  4,   5,   15,  16,  17,  31,  33,  63, 64,
                                65, 95, 97, 127, 128, 129, 200, 300, 511, 513, 700};
  if (!quick) {
    sizes.insert(sizes.end(), {1000, 1535, 1536, 1537, 2304, 3072, 3073, 4607, 4608, 4609, 6144});
  }
  constexpr int64_t kNear[] = {0, 1, 2, 3, 4, 5, 8, 12, kMostPanelPivots};
  constexpr int64_t kCounts[] = {1, 2, 3, 8, 9, 13, 40, 63, 64, 96, 128};
  for (const int64_t m : sizes) {
    for (const int64_t tile : {int64_t{0}, int64_t{64}, int64_t{128}}) {
      const int64_t most = m > 3000 ? 64 : kMostPanelPivots;
      const int64_t any = kCounts[random.integer(0, std::size(kCounts) - 1)];
      const Shape shape{m,
                        std::min({any, m, most}),
                        m > 1000 ? 1 : random.integer(1, 3),
                        tile,
                        m + 5 < source.size ? random.integer(0, 5) : 0,
                        random.chance(0.7)};
      make_room(kNear[random.integer(0, std::size(kNear) - 1)], m);
      set_turns(static_cast<int>(random.integer(0, 2)));
      check(tally, source, Problem(random, source, shape));
    }
  }
}

// Every split of the lines into near and far ones. With two groups, 12 far lines are in flight.
void check_near(Tally& tally, Random& random, const Source& source, bool quick) {
  for (int64_t near = 0; near < 40; ++near) {
    const int64_t m = !quick && near % 3 == 0 && near < 37 ? 1540 : 90;  // 36 lines fit
    make_room(near, m);
    set_turns(static_cast<int>(near / 3));
    check(tally, source, Problem(random, source, {m, 40, 1, near % 2 == 0 ? 0 : 64}));
    Case test(tally, join(near, " lines near"));
    const size_t line_bytes = (rounded_up(m, kPanelAlign) / 4 + 1) * 16;
    test.expect(host_gpu::device.launch.dynamic_bytes == std::min(near, int64_t{39}) * line_bytes,
                join(host_gpu::device.launch.dynamic_bytes, " bytes of shared memory"));
  }
}

// Of equal scores the lowest place is removed first, wherever its thread is: in the same warp, in
// another warp, or in the next group.
void check_ties(Tally& tally, Random& random, const Source& source, bool quick) {
  for (const int64_t m : {int64_t{6}, int64_t{130}, int64_t{600}, int64_t{quick ? 700 : 1700}}) {
    const int64_t count = std::min(m, int64_t{96});
    make_room(7, m);
    Source unit{m, std::vector<float>(m * m)};
    for (int64_t i = 0; i < m; ++i) unit.entries[i * m + i] = 1;
    for (int turns = 0; turns < 3; ++turns) {
      set_turns(turns);
      Problem levels(random, unit, {m, count, 1, 0});
      const int64_t few = random.integer(1, 3);
      for (int64_t i = 0; i < m; ++i) {
        levels.weight[i] = static_cast<float>(random.integer(-few, few)) / 4;
      }
      check(tally, unit, levels);
      Case test(tally, "by size, then place: " + describe(levels));
      std::vector<int32_t> sorted(m);
      std::iota(sorted.begin(), sorted.end(), 0);
      std::stable_sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) {
        return std::abs(levels.weight[a]) < std::abs(levels.weight[b]);
      });
      order_panel(levels.params(), nullptr);
      for (int64_t k = 0; k < count; ++k) {
        test.expect(levels.order[levels.done + k] == levels.ids[sorted[k]], join("pivot ", k));
      }
      Problem silent(random, source, {m, count, 1, 64});
      for (int64_t i = 0; i < m; i += 1 + turns) silent.weight[i] = 0;
      check(tally, source, silent);
    }
  }
}

// Places that are already removed, or barred; and weights whose scores are not numbers, or all
// equal.
void check_hard_numbers(Tally& tally, Random& random, const Source& source) {
  constexpr float kInfinite = std::numeric_limits<float>::infinity();
  for (int number = 0; number < 9; ++number) {
    const int64_t m = 100 + 70 * number;
    make_room(5, m);
    set_turns(number);
    Problem problem(random, source, {m, 30, 1, number % 2 == 0 ? 0 : 128});
    for (int64_t i = 0; i < m; ++i)
      problem.state[i] = random.chance(0.3) ? random.integer(1, 2) : 0;
    // Entries beyond m may have any value.
    for (int64_t i = m; i < problem.padded; ++i) problem.weight[i] = problem.diagonal[i] = 1e-3f;
    check(tally, source, problem);
    for (const float hard : {1e30f, kInfinite, kNot}) {
      Problem with(random, source, {m, m < 128 ? m : 128, 1, 64});
      with.weight[m / 2] = with.weight[m - 1] = hard;
      check(tally, source, with);
      std::fill(with.weight.begin(), with.weight.begin() + m, hard);
      check(tally, source, with);
    }
  }
}

// Each barrier is needed: without it, some order of the threads changes the result.
void check_barriers(Tally& tally, Random& random, const Source& source) {
  for (int barrier = 0; barrier < 2; ++barrier) {
    Tally wrong;
    for (int turns = 0; turns < 2; ++turns) {
      set_turns(turns);
      make_room(5, 300);
      Problem problem(random, source, {300, 20, 1, 0});
      const Problem before = problem;
      Problem wanted = problem;
      remove_plainly(source, wanted, 0);
      host_gpu::device.broken_barrier = barrier;
      bool held = true;
      try {
        order_panel(problem.params(), nullptr);
      } catch (const std::runtime_error&) {
        held = false;
      }
      host_gpu::device.broken_barrier = -1;
      wrong.failed += !held || problem.order != wanted.order || problem.loss != wanted.loss;
    }
    Case test(tally, join("barrier ", barrier, " left out"));
    test.expect(wrong.failed > 0, "nothing is wrong without it");
  }
}

// ---- launch -------------------------------------------------------------------------------------

host_gpu::Launch launch_of(int64_t m, int64_t count, int64_t rows) {
  OrderPanelParams params{};
  params.m = params.width = m;
  params.count = count;
  params.rows = rows;
  params.side = rounded_up(m, kPanelAlign);
  params.lines_stride = params.side * count;
  host_gpu::device.runs = false;
  order_panel(params, nullptr);
  host_gpu::device.runs = true;
  return host_gpu::device.launch;
}

int64_t lines_of(const host_gpu::Launch& launch, int64_t m) {
  return static_cast<int64_t>(launch.dynamic_bytes) / ((rounded_up(m, kPanelAlign) / 4 + 1) * 16);
}

void check_launches(Tally& tally) {
  Device& device = host_gpu::device;
  const auto fresh = [&](int processor_kib, int processors) {
    device = Device();
    device.shared_of_processor = processor_kib << 10;
    device.shared_of_block = (processor_kib - 1) << 10;
    device.processors = processors;
  };
  // sm_80, sm_86, sm_90, and a device with less shared memory than the kernel declares.
  for (const auto& [kib, processors] : {std::pair{164, 108}, {100, 84}, {228, 132}, {4, 1}}) {
    for (const int resident : {0, 1, 2, 3}) {
      fresh(kib, processors);
      device.resident = resident;
      for (int64_t m = 1; m <= kMostPanelPlaces; m = m < 40 ? m + 1 : m + 61) {
        for (const int64_t rows : {1, processors, processors + 1, 3 * processors, 1000000}) {
          const int64_t count = std::min<int64_t>(m, 64);
          Case test(tally, join(kib, " KiB, ", resident, " resident, m ", m, ", rows ", rows));
          const host_gpu::Launch launch = launch_of(m, count, rows);
          const int64_t units = rounded_up(m, kPanelAlign) / 4, threads = launch.threads;
          test.expect(launch.blocks == rows, "not a block a row");
          test.expect(threads % 32 == 0 && threads >= kMostPanelPivots && threads <= 384 &&
                          4 * threads >= units,
                      join(threads, " threads"));
          const int64_t beside =
              std::clamp<int64_t>((rows + processors - 1) / processors, 1, std::max(resident, 1));
          const int64_t fixed = device.shared_static, near = lines_of(launch, m);
          const auto fits = [&](int64_t lines) {
            const int64_t bytes = fixed + lines * (units + 1) * 16;
            return bytes <= device.shared_of_block &&
                   beside * (bytes + device.shared_reserved) <= device.shared_of_processor;
          };
          test.expect(near == 0 || fits(near), join(near, " lines do not fit"));
          test.expect(near < count, "the last line is kept, which nobody reads");
          test.expect(near == count - 1 || !fits(near + 1), join(near, " lines: one more fits"));
        }
      }
    }
  }
  // The numbers stated in cuda_panel.cu.
  fresh(228, 132);
  for (const auto& [m, near] : {std::pair{4608, 12}, {2304, 24}, {896, 63}}) {
    Case test(tally, join("m ", m, " of 64 pivots on sm_90"));
    test.expect(lines_of(launch_of(m, 64, 132), m) == near, "not as many lines as it says");
  }
  for (const auto& [m, threads] :
       {std::pair{1, 128}, {1536, 384}, {1537, 224}, {4608, 384}, {4609, 320}, {6144, 384}}) {
    Case test(tally, join("m ", m));
    const host_gpu::Launch launch = launch_of(m, 1, 1);
    test.expect(launch.threads == static_cast<unsigned>(threads), join(launch.threads, " threads"));
  }
  Case test(tally, "nothing to do");
  device.launch = {};
  launch_of(5, 0, 3);
  launch_of(5, 3, 0);
  test.expect(device.launch.threads == 0, "launched all the same");
}

}  // namespace

void check_cuda_panel(bool quick, Tally& tally) {
  Random random(11);
  host_gpu::device = Device();
  const int64_t size = quick ? 1000 : kMostPanelPlaces + 2;
  const Source source{size, positive_definite<float>(random, size)};
  check_shapes(tally, random, source, quick);
  check_near(tally, random, source, quick);
  check_ties(tally, random, source, quick);
  check_hard_numbers(tally, random, source);
  check_barriers(tally, random, source);
  for (const int64_t m : {5, 40, 128}) {
    make_room(m / 4, m);
    check_elimination(tally, source, Problem(random, source, {m, m, 1, 0}));
  }
  check_launches(tally);
  host_gpu::device = Device();
}

}  // namespace sbc::check
