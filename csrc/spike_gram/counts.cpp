#include "spike_gram/counts.h"

#include <algorithm>
#include <vector>

#include "common/aligned.h"
#include "common/integers.h"
#include "common/threads.h"
#include "spike_gram/counts_cpu.h"

namespace sbc {
namespace {

constexpr int64_t kBitsBytes = 32 << 20;  // of one block

}  // namespace

void gram_counts(const CountsParams& params, Isa isa, int threads) {
  const auto pack_counts = SBC_SELECT_ISA_OR(vpopcnt, isa, pack_counts);
  const auto count_pairs = SBC_SELECT_ISA_OR(vpopcnt, isa, count_pairs);
  const GramRegion& region = params.regions[0];
  const int64_t places = params.N * region.num_positions;
  const int64_t padded = ceil_div(params.channels, kCountColumns) * kCountColumns;
  const int64_t word_bytes = padded * params.T * 8;
  const int64_t most = std::max<int64_t>(1, kBitsBytes / word_bytes) * 64;
  const int64_t block_places =  // blocks of one size
      ceil_div(ceil_div(places, ceil_div(places, most)), 64) * 64;

  CountBlock block{};
  block.params = &params;
  block.region = &region;
  const auto zero_row = aligned_array<int8_t>(params.channels);
  std::fill_n(zero_row.get(), params.channels, int8_t{0});
  block.zero_row = zero_row.get();
  const auto bits =
      aligned_array<uint64_t>(padded * params.T * ceil_div(std::min(places, block_places), 64));
  block.bits = bits.get();
  block.padded = padded;

  std::vector<CountTask> tasks;  // those on the diagonal, with half as much to do, last
  const int64_t sides = ceil_div(params.channels, kCountTask);
  for (const bool diagonal : {false, true}) {
    for (int64_t j = 0; j < sides; ++j) {
      for (int64_t i = diagonal ? j : 0; i < (diagonal ? j + 1 : j); ++i) {
        tasks.push_back({i * kCountTask, j * kCountTask});
      }
    }
  }
  std::vector<AlignedArray<double>> totals(threads);
  for (auto& mine : totals) mine = aligned_array<double>(kCountTask * kCountTask);

  for (int64_t first = 0; first < places; first += block_places) {
    block.first_place = first;
    block.num_places = std::min(block_places, places - first);
    block.is_first = first == 0, block.is_last = first + block_places >= places;
    block.words = ceil_div(block.num_places, 64);
    const int64_t groups = ceil_div(block.words, kCountGroup);
    parallel_for(params.T * groups, threads,
                 [&](int64_t index, int) { pack_counts(block, index / groups, index % groups); });
    parallel_for(static_cast<int64_t>(tasks.size()), threads, [&](int64_t task, int worker) {
      count_pairs(block, tasks[task], totals[worker].get());
    });
  }
}

}  // namespace sbc
