#include "spike_gram/tables.h"

#include <vector>

#include "common/aligned.h"
#include "common/integers.h"
#include "common/threads.h"
#include "spike_gram/joined_groups.h"
#include "spike_gram/tables_cpu.h"

namespace sbc {
namespace {

constexpr int64_t kIndexBytes = 8 << 20;  // of one block's index, to stay in a third-level cache
constexpr int64_t kMaxBlockSamples = 16384;
constexpr int64_t kMaxTaskRows =
    1280;  // up to 384 bytes of sums a row: 480 KiB of second-level cache
constexpr int64_t kMaxPairTaskRows = 320;  // 1408 bytes of sums and total a row, likewise
constexpr int64_t kMinTaskRows = 256;      // below this the 64 table entries a pass begin to show

struct Scratch {
  AlignedArray<char> values, tables, sums, wide_sums, total;
};

struct Task {
  int64_t first_column, first_row, last_row;
};

// Tiles of Z columns times ranges of X rows. The triangle's longest tiles come first.
std::vector<Task> plan_tasks(const GramInput& params, const TablesShape& shape,
                             const GramRegion& region, int threads) {
  const int64_t columns = shape.columns;
  const int64_t tiles = ceil_div(params.channels, columns);
  const int64_t all_rows = region.num_shifts * params.channels;
  const int64_t wanted_splits = ceil_div(threads > 1 ? 4 * threads : 1, tiles);
  const int64_t task_rows = std::min(shape.total_bytes > 0 ? kMaxPairTaskRows : kMaxTaskRows,
                                     std::max(kMinTaskRows, ceil_div(all_rows, wanted_splits)));
  std::vector<Task> tasks;
  for (int64_t tile = tiles - 1; tile >= 0; --tile) {
    const int64_t rows = params.triangle ? std::min(all_rows, (tile + 1) * columns) : all_rows;
    const int64_t splits = ceil_div(rows, task_rows);
    for (int64_t split = 0; split < splits; ++split) {
      tasks.push_back({tile * columns, rows * split / splits, rows * (split + 1) / splits});
    }
  }
  return tasks;
}

// How many images of a region a block has, where rows of the index are `rows`, and how many passes
// it then takes.
struct BlockSize {
  int64_t images, passes;
};
BlockSize block_size(const GramInput& params, const TablesShape& shape, const GramRegion& region,
                     int64_t rows) {
  const int64_t image_samples = region.num_positions * shape.place_samples;
  const int64_t layers = shape.layers * shape.planes;
  const int64_t samples = std::min(kMaxBlockSamples / shape.layers,
                                   kIndexBytes / (8 * layers * rows) * shape.pass_samples);
  const int64_t images = std::min(params.N, std::max<int64_t>(1, samples / image_samples));
  return {images, ceil_div(images * image_samples, shape.pass_samples)};
}

// One region: for all images, block by block, first the index, then the tiles, by `run_tile`.
// Blocks are cut as for one group of `group_channels`: where sums are rounded, joined groups round
// alike.
template <class BuildIndex, class RunTile>
void sum_region(const GramInput& params, const TablesShape& shape, const GramRegion& region,
                int64_t group_channels, BuildIndex build_index, const RunTile& run_tile,
                int threads) {
  const std::vector<Task> tasks = plan_tasks(params, shape, region, threads);
  const int64_t rows = region.num_shifts * params.channels;
  const BlockSize size = block_size(params, shape, region, region.num_shifts * group_channels);
  int64_t max_rows = 0;
  for (const Task& task : tasks) max_rows = std::max(max_rows, task.last_row - task.first_row);
  const auto zero_row = aligned_array<int8_t>(params.channels);
  std::fill_n(zero_row.get(), params.channels, int8_t{0});
  const auto index = aligned_array<uint64_t>(shape.layers * shape.planes * size.passes * rows);
  std::vector<Scratch> scratch(threads);
  for (Scratch& mine : scratch) {
    mine.values = aligned_array<char>(shape.layers * size.passes * shape.pass_samples * kTileBytes);
    mine.tables = aligned_array<char>(kTablesBytes);
    mine.sums = aligned_array<char>(max_rows * shape.sum_bytes);
    mine.wide_sums = aligned_array<char>(max_rows * shape.wide_bytes);
    mine.total = aligned_array<char>(max_rows * shape.total_bytes);
  }

  TablesBlock block{};
  block.params = &params;
  block.shape = &shape;
  block.region = &region;
  block.index = index.get();
  block.zero_row = zero_row.get();
  for (int64_t image = 0; image < params.N; image += size.images) {
    block.first_image = image;
    block.num_images = std::min(size.images, params.N - image);
    block.num_samples = block.num_images * region.num_positions * shape.place_samples;
    block.num_passes = ceil_div(block.num_samples, shape.pass_samples);
    const int64_t slots = block.num_passes * shape.layers;
    const int64_t slices = std::min<int64_t>(slots, 8 * threads);
    parallel_for(slices, threads, [&](int64_t slice, int) {
      build_index(block, slots * slice / slices, slots * (slice + 1) / slices);
    });
    parallel_for(static_cast<int64_t>(tasks.size()), threads, [&](int64_t t, int worker) {
      const Scratch& mine = scratch[worker];
      run_tile(block,
               {tasks[t].first_column, tasks[t].first_row, tasks[t].last_row, mine.values.get(),
                mine.tables.get(), mine.sums.get(), mine.wide_sums.get(), mine.total.get()});
    });
  }
}

// All regions and groups; `run_tile` is the kernel of Params.
template <class Params, class BuildIndex, class RunTile>
void sum_all(const Params& params, const TablesShape& shape, BuildIndex build_index,
             RunTile run_tile, int threads) {
  const auto most_groups = [&](const GramRegion& region) {
    const int64_t rows = region.num_shifts * params.channels;  // of one group
    const int64_t passes = block_size(params, shape, region, rows).passes;
    return std::min(shape.columns / params.channels,
                    kIndexBytes / (8 * shape.layers * shape.planes * passes * rows));
  };
  for_joined_groups(params, most_groups, [&](const Params& part, const GramRegion& region) {
    const auto run = [&](const TablesBlock& block, const TablesTile& tile) {
      run_tile(part, block, tile);
    };
    sum_region(part, shape, region, params.channels, build_index, run, threads);
  });
}

}  // namespace

void gram_tables(const TablesParams& params, Isa isa, int threads) {
  TablesShape shape{};
  shape.columns = kTileBytes / params.lane_bytes;
  shape.pass_samples = 36;
  shape.place_samples = params.T, shape.layers = 1, shape.planes = params.planes;
  shape.sum_bytes = 64, shape.wide_bytes = params.lane_bytes == 8 ? 64 : 128;
  sum_all(params, shape, SBC_SELECT_ISA(isa, build_index), SBC_SELECT_ISA(isa, run_tables),
          threads);
}

void gram_pair_tables(const PairTablesParams& params, Isa isa, int threads) {
  TablesShape shape{};
  shape.columns = 128;
  shape.pass_samples = 60;
  shape.place_samples = 1, shape.layers = params.T, shape.planes = 1;
  shape.sum_bytes = 128, shape.wide_bytes = 256, shape.total_bytes = params.T > 1 ? 1024 : 0;
  sum_all(params, shape, SBC_SELECT_ISA(isa, build_index), SBC_SELECT_ISA(isa, run_pair_tables),
          threads);
}

}  // namespace sbc
