// Gram matrices by pairs of time steps as population counts, for processors that count the bits of
// whole vectors (VPOPCNTDQ): the sum over (t, u) of K[t, u] |X_t & X_u|, one bit a sample.
#pragma once

#include "common/isa.h"
#include "spike_gram/params.h"

namespace sbc {

constexpr int64_t kCountSamples = 512;  // of one vector of bits
constexpr int64_t kCountColumns = 4;    // a block of the answer is so many rows by so many columns
constexpr int64_t kCountTask = 128;     // columns of a task: its totals stay in second-level cache
// Bytes of a block's columns that are in first-level cache at once.
constexpr int64_t kCountBlock = 16 << 10;

struct CountBlock {
  const GramParams* params;
  const GramRegion* region;
  int64_t first_place, num_places;
  bool is_first, is_last;
  int64_t vectors;  // ceil(num_places / kCountSamples); silence fills the last one
  uint64_t* bits;   // [channels padded to kCountColumns, T, vectors, 8]
  const int8_t* zero_row;
};

struct CountTask {
  int64_t first_row, first_column;  // multiples of kCountTask
};

#define SBC_DECLARE(isa)                                                            \
  namespace isa {                                                                   \
  /* One vector of samples at one time, all channels. */                            \
  void pack_counts(const CountBlock& block, int64_t time, int64_t vector);          \
  /* totals: [kCountTask * kCountTask] of scratch. */                               \
  void count_pairs(const CountBlock& block, const CountTask& task, double* totals); \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
SBC_DECLARE(vpopcnt)
#undef SBC_DECLARE

}  // namespace sbc
