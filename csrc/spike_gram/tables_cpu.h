// The inner loops of gram_tables and gram_pair_tables, once for each instruction set.
//
// Method of four Russians. Six samples of a tile of Z columns make a table of their 64 subset sums;
// for each row of X its six bits are an index, and one table row is what six samples add to 64
// bytes of the answer. No multiplication, no popcount, no unpacking: a load and an add for 6 * (64
// / lane_bytes) products. Loads are what runs out first (two a cycle), so a row's bits of a whole
// pass come in one 64-bit word.
//
// By pairs X and Z are both binary, and two columns share a byte (NibblePair): five samples a
// table, so that three tables add up to at most 15 in a nibble before they are parted. A load then
// yields 5 * 128 products, and a table of 32 entries is built in a third of the stores a product.
#pragma once

#include "common/isa.h"
#include "spike_gram/tables.h"

namespace sbc {

constexpr int kTileBytes = 64;              // of one table entry: a cache line
constexpr int64_t kTablesBytes = 24 << 10;  // in use at once, of 32 KiB first-level cache

// How a Gram is cut into tiles and tables. By filter a sample is a place (a position in an image)
// and a time, time innermost, and there is one layer; by pairs of times a sample is a place, and
// each time step is a layer.
struct TablesShape {
  int64_t columns;        // of Z in a tile
  int64_t pass_samples;   // of all tables in use at once, at most 64
  int64_t place_samples;  // of a place in one layer: T or 1
  int64_t layers;         // 1 or T
  int64_t planes;         // bits of x
  int64_t sum_bytes;      // a row of a tile's first sums
  int64_t wide_bytes;     // a row of what they are flushed into
  int64_t total_bytes;    // a row of the weighted total over pairs of times, 0 where there is none
};

// The samples of one region in one block: num_images * num_positions places and T time steps.
struct TablesBlock {
  const GramInput* params;
  const TablesShape* shape;
  const GramRegion* region;
  int64_t first_image, num_images;
  int64_t num_samples;  // of a layer
  int64_t num_passes;   // of a layer: ceil(num_samples / pass_samples); silence fills the last one
  // [planes, layers, num_passes, num_shifts * channels]: bit s is the pass's sample s. One of
  // planes and layers is 1.
  uint64_t* index;
  const int8_t* zero_row;  // [channels] of silence, where a shift leaves the map
};

struct TablesTile {
  int64_t first_column;         // of Z
  int64_t first_row, last_row;  // of X: shift * channels + channel
  char* values;                 // [1 or T, num_passes * pass_samples, kTileBytes] scratch
  char* tables;                 // kTablesBytes of scratch
  char* sums;                   // [rows, sum_bytes] scratch
  char* wide_sums;              // [rows, wide_bytes] scratch
  char* total;                  // [rows, total_bytes] scratch
};

#define SBC_DECLARE(isa)                                                                         \
  namespace isa {                                                                                \
  void build_index(const TablesBlock& block, int64_t first, int64_t last);                       \
  void run_tables(const TablesParams& params, const TablesBlock& block, const TablesTile& tile); \
  void run_pair_tables(const PairTablesParams& params, const TablesBlock& block,                 \
                       const TablesTile& tile);                                                  \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
#undef SBC_DECLARE

}  // namespace sbc
