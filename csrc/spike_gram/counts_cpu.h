// Gram matrices by pairs of time steps as population counts, for processors that count the bits of
// whole vectors (VPOPCNTDQ): the sum over (t, u) of K[t, u] |X_t & X_u|, one bit a sample.
#pragma once

#include "common/isa.h"
#include "spike_gram/counts.h"

namespace sbc {

constexpr int64_t kCountPanel = 8;     // channels whose words lie side by side: a vector
constexpr int64_t kCountColumns = 16;  // a block of the answer is a panel of rows by two of columns
constexpr int64_t kCountTask = 128;    // columns of a task: its totals stay in second-level cache
constexpr int64_t kCountGroup = 8;     // words of a panel that are packed at once
// Bytes of a block's columns that are in first-level cache at once.
constexpr int64_t kCountBytes = 16 << 10;

struct CountBlock {
  const CountsParams* params;
  const GramRegion* region;
  int64_t first_place, num_places;
  bool is_first, is_last;
  int64_t words;   // ceil(num_places / 64); silence fills the last one
  int64_t padded;  // channels, to a multiple of kCountColumns
  uint64_t* bits;  // [padded / kCountPanel, T, words, kCountPanel]
  const int8_t* zero_row;

  // The words of the panel that `channel` is the first of, at one time.
  uint64_t* panel(int64_t channel, int64_t time) const {
    return bits + (channel / kCountPanel * params->T + time) * words * kCountPanel;
  }
};

struct CountTask {
  int64_t first_row, first_column;  // multiples of kCountTask
};

#define SBC_DECLARE(isa)                                                            \
  namespace isa {                                                                   \
  /* One group of words at one time, all channels. */                               \
  void pack_counts(const CountBlock& block, int64_t time, int64_t group);           \
  /* totals: [kCountTask * kCountTask] of scratch. */                               \
  void count_pairs(const CountBlock& block, const CountTask& task, double* totals); \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
SBC_DECLARE(vpopcnt)
#undef SBC_DECLARE

}  // namespace sbc
