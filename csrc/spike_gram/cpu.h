// The inner loops of spike_gram, once for each instruction set.
//
// Method of four Russians. Six samples of a tile of Z columns make a table of their 64 subset sums;
// for each row of X its six bits are an index, and one table row is what six samples add to 64 bytes
// of the answer. No multiplication, no popcount, no unpacking: a load and an add for
// 6 * (64 / lane_bytes) products.
//
// Where X and Z are both binary (NibblePair), two columns share a byte: five samples a table, so that
// three tables add up to at most 15 in a nibble before they are parted. A load then yields
// 5 * 128 products, and a table of 32 entries is built in a third of the stores a product.
#pragma once

#include "common/isa.h"
#include "spike_gram/params.h"

namespace sbc {

constexpr int kTileBytes = 64;  // of one table entry: a cache line
constexpr int64_t kTablesBytes = 24 << 10;  // in use at once, of 32 KiB first-level cache

// How a Gram is cut into tiles and tables, by the kind of its sums.
struct GramShape {
  int columns;        // of Z in a tile
  int group_samples;  // that make one table, of 2^group_samples entries
  int pass_groups;    // tables in use at once
  int sum_bytes;      // a row of a tile's first sums
  int wide_bytes;     // a row of what they are flushed into
};

inline bool is_binary(const GramParams& params) {
  return params.lane_bytes == 1 && params.max_term == 1 && params.planes == 1 && params.T == 1 &&
         params.matched_filter[0] == 1;
}

inline GramShape gram_shape(const GramParams& params) {
  if (is_binary(params)) return {128, 5, 12, 128, 256};
  const int columns = kTileBytes / params.lane_bytes;
  return {columns, 6, 6, 64, params.lane_bytes == 8 ? 64 : 128};
}

// The samples of one region in one block: num_images * num_positions * T of them, time innermost.
struct GramBlock {
  const GramParams* params;
  const GramRegion* region;
  int64_t first_image, num_images;
  int64_t num_samples;
  int64_t num_groups;  // whole passes: silent groups fill the last one
  uint8_t* index;                   // [planes, num_groups, index_stride]
  int64_t index_stride;             // num_shifts * channels, padded
  const int8_t* zero_row;           // [channels] of silence, where a shift leaves the map
};

struct GramTile {
  int64_t first_column;         // of Z
  int64_t first_row, last_row;  // of X: shift * channels + channel
  char* values;                 // [num_groups * group_samples, kTileBytes] scratch
  char* tables;                 // kTablesBytes of scratch
  char* sums;                   // [rows, sum_bytes] scratch
  char* wide_sums;              // [rows, wide_bytes] scratch
};

#define SBC_DECLARE(isa)                                                      \
  namespace isa {                                                             \
  void build_index(const GramBlock& block, int64_t first, int64_t last);      \
  void run_tile(const GramBlock& block, const GramTile& tile);                \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
#undef SBC_DECLARE

}  // namespace sbc
