// Gram matrices as products of bytes, for processors that multiply tiles of them (AMX). VNNI's
// products of vectors were tried: they are no faster than looking up subset sums (tables_cpu.h).
//
// X' Z with Z = F X: Z is split into digits of base 256, and each digit is one product of bytes,
// summed in 32-bit integers. Where M X itself fits in a byte, F = M and the product is Z' Z.
//
// Samples come in steps of 64 and columns in tiles of 16. A right tile has four samples of a column
// side by side, as the instruction wants it: [16 quartets][16 columns][4 samples]. A left tile is
// the same with quartets and columns exchanged.
#pragma once

#include "common/isa.h"
#include "spike_gram/bytes.h"

namespace sbc {

constexpr int64_t kStepSamples = 64;  // of a byte tile
constexpr int64_t kByteColumns = 16;  // of a byte tile
constexpr int64_t kByteTile = 1024;   // bytes: [16 quartets of samples][16 columns][4 samples]
constexpr int64_t kByteSums = 4096;   // bytes of a pair of panels' sums: four tiles of int32
constexpr int64_t kChunkSteps = 8;    // a panel's share of them stays in first-level cache
constexpr int64_t kChunkBytes = 2 * kByteTile * kChunkSteps;
constexpr int64_t kTimes = 4;         // steps that are filtered at once
constexpr int64_t kFlushChunks = 64;  // 255 * 255 * 64 * 8 * 64 < 2^31

// [chunks][panels][kChunkSteps][2 tiles]: a chunk's panel is contiguous. The partner of an odd last
// tile is nobody's: what lies there is multiplied, but never flushed.
struct ByteOperand {
  char* data;
  int64_t panels;
  char* panel(int64_t chunk, int64_t p) const { return data + (chunk * panels + p) * kChunkBytes; }
  char* tile(int64_t step, int64_t column_tile) const {
    return panel(step / kChunkSteps, column_tile / 2) +
           (step % kChunkSteps * 2 + column_tile % 2) * kByteTile;
  }
};

// Places (a position in an image) of one region, T samples each. Four places at one time are a
// quartet; the quartets of four places follow each other in time. Places are packed in units of so
// many that a unit is a whole number of steps. Past the last place is silence.
struct ByteBlock {
  const BytesParams* params;
  const GramRegion* region;
  int64_t first_place, num_places;
  bool is_first, is_last;
  int64_t unit_places;
  int64_t num_steps;       // of 16 quartets
  const int8_t* zero_row;  // [C]
  ByteOperand left;        // X: tiles of channels, shift after shift. Where squared, Z
  ByteOperand right[8];    // a digit of Z each, the lowest first
  // [T, T], one of them: F in the narrower type that holds every sum exactly.
  const float* weights32;
  const double* weights64;
};

struct ByteScratch {
  char* spikes;  // [T, 4, 16] float or double
  char* sums;    // [panels of a task, panels of a task, kByteSums]
};

struct ByteTask {
  int64_t first_left, last_left;  // panels
  int64_t first_right, last_right;
};

static inline int64_t byte_tiles(int64_t channels) {
  return (channels + kByteColumns - 1) / kByteColumns;
}

#define SBC_DECLARE(isa)                                                                         \
  namespace isa {                                                                                \
  void pack_bytes(const ByteBlock& block, int64_t unit, int64_t first_tile, int64_t last_tile,   \
                  const ByteScratch& scratch);                                                   \
  void multiply_bytes(const ByteBlock& block, const ByteTask& task, const ByteScratch& scratch); \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
SBC_DECLARE(amx)
#undef SBC_DECLARE

}  // namespace sbc
