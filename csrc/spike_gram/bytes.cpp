#include "spike_gram/bytes.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "common/aligned.h"
#include "common/integers.h"
#include "common/threads.h"
#include "spike_gram/bytes_cpu.h"
#include "spike_gram/joined_groups.h"

namespace sbc {
namespace {

constexpr int64_t kPackedBytes = 60 << 20;  // of one block: few blocks, few passes over the answer
constexpr int64_t kMaxSamples = 16384;      // of one block, beyond the first unit
constexpr int64_t kMaxTaskPanels = 16;      // sums and a chunk of both sides: 1.5 MiB

struct Scratch {
  AlignedArray<char> spikes, sums;
};

// Squares of panels, those with the most work first.
std::vector<ByteTask> plan_tasks(bool triangle, int64_t left, int64_t right, int threads) {
  int64_t side = kMaxTaskPanels;
  const auto count = [&] {
    return ceil_div(left, side) * ceil_div(right, side) / (triangle ? 2 : 1);
  };
  while (side > 2 && threads > 1 && count() < 4 * threads) side /= 2;
  const int64_t rows = ceil_div(left, side), columns = ceil_div(right, side);
  std::vector<ByteTask> tasks;
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t i = 0; i < (triangle ? j + 1 : rows); ++i) {
      tasks.push_back(
          {left * i / rows, left * (i + 1) / rows, right * j / columns, right * (j + 1) / columns});
    }
  }
  if (triangle) {  // on the diagonal there is half as much to do
    std::stable_partition(tasks.begin(), tasks.end(),
                          [](const ByteTask& t) { return t.first_left != t.first_right; });
  }
  return tasks;
}

struct Kernels {
  decltype(&portable::pack_bytes) pack;
  decltype(&portable::multiply_bytes) multiply;
};

// Bytes of a sample in a block: its left and right tiles.
int64_t sample_bytes(const BytesParams& params, const GramRegion& region, int64_t channels) {
  const int64_t tiles = byte_tiles(channels);
  return 2 * kByteColumns *
         (ceil_div(region.num_shifts * tiles, 2) + params.digits * ceil_div(tiles, 2));
}

// How many samples a block has beyond its first unit, for groups of so many channels.
int64_t most_samples(const BytesParams& params, const GramRegion& region, int64_t channels) {
  return std::min(kMaxSamples, kPackedBytes / sample_bytes(params, region, channels));
}

// Blocks are cut as for one group of `group_channels`: where sums are rounded, past 2^53, joined
// groups round alike.
void sum_region(const BytesParams& params, const GramRegion& region, int64_t group_channels,
                Kernels kernels, int threads) {
  const int64_t T = params.T, tiles = byte_tiles(params.channels);
  ByteBlock block{};
  block.params = &params;
  block.region = &region;
  block.unit_places = 4 * (16 / std::gcd<int64_t>(16, T));
  block.left.panels = ceil_div(region.num_shifts * tiles, 2);
  const int64_t right_panels = ceil_div(tiles, 2);

  const int64_t unit_samples = block.unit_places * T;
  const int64_t places = params.N * region.num_positions;
  const int64_t units = ceil_div(places, block.unit_places);
  const int64_t most_units =
      std::max<int64_t>(1, most_samples(params, region, group_channels) / unit_samples);
  const int64_t block_units = ceil_div(units, ceil_div(units, most_units));  // blocks of one size
  const auto steps_of = [&](int64_t num_places) {
    return ceil_div(ceil_div(num_places, 4) * T, 16);
  };
  const int64_t block_chunks =
      ceil_div(steps_of(std::min(block_units * block.unit_places, places)), kChunkSteps);

  // Floats hold every integer up to 2^24, doubles up to 2^53.
  const bool narrow = params.max_term <= int64_t{1} << 24;
  std::vector<float> weights32(narrow ? T * T : 0);
  std::vector<double> weights64(narrow ? 0 : T * T);
  for (int64_t i = 0; i < T * T; ++i) {
    if (narrow) {
      weights32[i] = static_cast<float>(params.filter[i]);
    } else {
      weights64[i] = static_cast<double>(params.filter[i]);
    }
  }
  block.weights32 = narrow ? weights32.data() : nullptr;
  block.weights64 = narrow ? nullptr : weights64.data();

  const auto zero_row = aligned_array<int8_t>(params.channels);
  std::fill_n(zero_row.get(), params.channels, int8_t{0});
  block.zero_row = zero_row.get();
  const AlignedArray<char> left =
      aligned_array<char>(block_chunks * block.left.panels * kChunkBytes);
  block.left.data = left.get();
  AlignedArray<char> right[8];
  for (int digit = 0; digit < params.digits; ++digit) {
    right[digit] = aligned_array<char>(block_chunks * right_panels * kChunkBytes);
    block.right[digit] = {right[digit].get(), right_panels};
  }
  const std::vector<ByteTask> tasks =
      plan_tasks(params.triangle, block.left.panels, right_panels, threads);
  int64_t area = 0;
  for (const ByteTask& task : tasks) {
    area =
        std::max(area, (task.last_left - task.first_left) * (task.last_right - task.first_right));
  }
  std::vector<Scratch> scratch(threads);
  for (Scratch& mine : scratch) {
    mine.spikes = aligned_array<char>(T * 4 * kByteColumns * sizeof(double));
    mine.sums = aligned_array<char>(area * kByteSums);
  }
  const auto of = [&](int worker) {
    const Scratch& mine = scratch[worker];
    return ByteScratch{mine.spikes.get(), mine.sums.get()};
  };

  for (int64_t first = 0; first < places; first += block_units * block.unit_places) {
    block.first_place = first;
    block.is_first = first == 0, block.is_last = first + block_units * block.unit_places >= places;
    block.num_places = std::min(block_units * block.unit_places, places - first);
    block.num_steps = steps_of(block.num_places);
    const int64_t live_units = ceil_div(block.num_places, block.unit_places);
    const int64_t slices = std::min(tiles, ceil_div(threads > 1 ? 4 * threads : 1, live_units));
    parallel_for(live_units * slices, threads, [&](int64_t index, int worker) {
      const int64_t unit = index / slices, slice = index % slices;
      kernels.pack(block, unit, tiles * slice / slices, tiles * (slice + 1) / slices, of(worker));
    });
    parallel_for(static_cast<int64_t>(tasks.size()), threads, [&](int64_t index, int worker) {
      kernels.multiply(block, tasks[index], of(worker));
    });
  }
}

}  // namespace

void gram_bytes(const BytesParams& params, Isa isa, int threads) {
  const Kernels kernels{SBC_SELECT_ISA_OR(amx, isa, pack_bytes),
                        SBC_SELECT_ISA_OR(amx, isa, multiply_bytes)};
  // A panel has columns for so many groups; packed they must not take more room than one block may.
  const auto most_groups = [&](const GramRegion& region) {
    const int64_t groups = 2 * kByteColumns / params.channels;
    const int64_t bytes =
        most_samples(params, region, params.channels) *
        sample_bytes(params, region, std::max<int64_t>(1, groups) * params.channels);
    return bytes <= kPackedBytes ? groups : 1;
  };
  for_joined_groups(params, most_groups, [&](const BytesParams& part, const GramRegion& region) {
    sum_region(part, region, params.channels, kernels, threads);
  });
}

}  // namespace sbc
