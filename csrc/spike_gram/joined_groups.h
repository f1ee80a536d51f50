// Convolution groups of few channels, summed together.
//
// A tile has columns for more channels than a group of a depthwise convolution has, and a row of
// the spikes is a cache line of many groups. So as many groups as a tile holds are summed as if
// they were one, and the blocks on the diagonal are kept: the tile's work is that of one group, and
// the spikes are packed once. What is summed for each entry, and in which order, is as for the
// group alone.
#pragma once

#include <algorithm>
#include <vector>

#include "common/integers.h"
#include "spike_gram/input.h"

namespace sbc {

// Calls `sum(part, region)` with `part` a copy of params that has one group, and `region` its sums.
// `most_groups(region)` says how many groups may be joined.
template <class Params, class MostGroups, class Sum>
void for_joined_groups(const Params& params, const MostGroups& most_groups, const Sum& sum) {
  const int64_t channels = params.channels, square = channels * channels;
  std::vector<double> joined;
  for (int64_t r = 0; r < params.num_regions; ++r) {
    const GramRegion& whole = params.regions[r];
    const int64_t most = std::min(params.groups, std::max<int64_t>(1, most_groups(whole)));
    const int64_t parts = ceil_div(params.groups, most);
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t first = params.groups * p / parts, last = params.groups * (p + 1) / parts;
      Params part = params;
      GramRegion region = whole;
      part.first_channel = params.first_channel + first * channels;
      part.channels = (last - first) * channels;
      part.groups = 1, part.regions = &region, part.num_regions = 1;
      region.out = whole.out + first * whole.num_shifts * square;
      if (last - first == 1) {
        sum(part, region);
        continue;
      }
      // What lies beside the diagonal is summed and never read.
      double* const sums = whole.out;
      const auto copy_blocks = [&](bool back) {
        for (int64_t s = 0; s < whole.num_shifts; ++s) {
          for (int64_t g = first; g < last; ++g) {
            for (int64_t c = 0; c < channels; ++c) {
              double* own = sums + (g * whole.num_shifts + s) * square + c * channels;
              double* there = joined.data() +
                              (s * part.channels + (g - first) * channels + c) * part.channels +
                              (g - first) * channels;
              std::copy_n(back ? there : own, channels, back ? own : there);
            }
          }
        }
      };
      joined.assign(whole.num_shifts * part.channels * part.channels, 0.0);
      copy_blocks(false);
      region.out = joined.data();
      sum(part, region);
      copy_blocks(true);
    }
  }
}

}  // namespace sbc
