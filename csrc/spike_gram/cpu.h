// The inner loops of spike_gram, once for each instruction set.
//
// Method of four Russians. Six samples of a tile of Z columns make a table of their 64 subset sums;
// for each row of X its six bits are an index, and one table row is what six samples add to 64 bytes
// of the answer. No multiplication, no popcount, no unpacking: a load and an add for
// 6 * (64 / lane_bytes) products.
#pragma once

#include "common/isa.h"
#include "spike_gram/params.h"

namespace sbc {

constexpr int kGroupSamples = 6;  // 64 table entries: 4 KiB a table
constexpr int kGroupsPerPass = 6;  // tables in use at once: 24 of 32 KiB first-level cache
constexpr int kTileBytes = 64;     // of one table entry: a cache line
constexpr int kTableEntries = 1 << kGroupSamples;
constexpr int kPassSamples = kGroupSamples * kGroupsPerPass;

// The samples of one region in one block: num_images * num_positions * T of them, time innermost.
struct GramBlock {
  const GramParams* params;
  const GramRegion* region;
  int64_t first_image, num_images;
  int64_t num_samples, num_groups;  // ceil(num_samples / kGroupSamples)
  uint8_t* index;                   // [planes, num_groups, index_stride]
  int64_t index_stride;             // num_shifts * channels, padded
  const int8_t* zero_row;           // [channels] of silence, where a shift leaves the map
};

struct GramTile {
  int64_t first_column;         // of Z
  int64_t first_row, last_row;  // of X: shift * channels + channel
  char* values;                 // [num_groups * kGroupSamples, kTileBytes] scratch
  char* tables;                 // [kGroupsPerPass, kTableEntries, kTileBytes] scratch
  char* sums;                   // [rows, kTileBytes] scratch
  char* wide_sums;              // [rows, 2 * kTileBytes] scratch
};

#define SBC_DECLARE(isa)                                                      \
  namespace isa {                                                             \
  void build_index(const GramBlock& block, int64_t first, int64_t last);      \
  void run_tile(const GramBlock& block, const GramTile& tile);                \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
#undef SBC_DECLARE

}  // namespace sbc
