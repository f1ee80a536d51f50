// Spikes of bytes to bits. Included by *_cpu.cpp files only.
#pragma once

#include "common/simd.h"

namespace sbc {
namespace SBC_ISA {

// Bits under `mask` of eight rows, the first one lowest, 4096 channels at a time.
constexpr int64_t kChunk = 4096;

static inline void pack_bits(const int8_t* const* rows, uint8_t mask, int64_t channels,
                             uint8_t* to) {
  typedef Vector<uint8_t> Bytes;
  const Bytes masks = Bytes{} + mask, one = Bytes{} + uint8_t{1};
  int64_t c = 0;
  for (; c + kVectorBytes <= channels; c += kVectorBytes) {
    Bytes bits{};
#pragma GCC unroll 8
    for (int bit = 7; bit >= 0; --bit) {
      const Bytes masked = load<uint8_t>(rows[bit] + c) & masks;
      bits += bits + (masked < one ? masked : one);
    }
    store<uint8_t>(to + c, bits);
  }
  for (; c < channels; ++c) {
    uint8_t bits = 0;
    for (int bit = 7; bit >= 0; --bit) {
      bits = static_cast<uint8_t>(bits + bits + ((rows[bit][c] & mask) != 0));
    }
    to[c] = bits;
  }
}

// One word a channel from the 64 rows of a pass (rows past its samples are silent).
static inline void pack_words(const int8_t* const* rows, uint8_t mask, int64_t channels,
                              uint64_t* to) {
  uint8_t bytes[8][kChunk];
  for (int64_t first = 0; first < channels; first += kChunk) {
    const int64_t count = channels - first < kChunk ? channels - first : kChunk;
    for (int k = 0; k < 8; ++k) {
      const int8_t* shifted[8];
      for (int bit = 0; bit < 8; ++bit) shifted[bit] = rows[8 * k + bit] + first;
      pack_bits(shifted, mask, count, bytes[k]);
    }
    for (int64_t c = 0; c < count; ++c) {
      uint64_t word = 0;
#pragma GCC unroll 8
      for (int k = 7; k >= 0; --k) word = word << 8 | bytes[k][c];
      to[first + c] = word;
    }
  }
}

}  // namespace SBC_ISA
}  // namespace sbc
