// From a kernel's sums to the answer. Included by *_cpu.cpp files only.
#pragma once

#include <cstdint>

#include "common/simd.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace sbc {
namespace SBC_ISA {

constexpr int kFlushSide = 16;

// A tile of a matrix, from `row` and `column` on; what of it lies outside is not written.
struct TilePlace {
  double* out;  // [channels, channels], of one shift
  int64_t channels, row, column;
};

// A row of a tile to where it stays. `past_cache`: it is written once and whole, to the start of a
// cache line; reading the line first would be for nothing, and takes as long as writing it.
static inline void write_row(double* to, const double* from, [[maybe_unused]] bool past_cache) {
#if defined(__AVX512F__)
  if (past_cache) {
    for (int half = 0; half < kFlushSide; half += 8) {
      _mm512_stream_pd(to + half, _mm512_loadu_pd(from + half));
    }
    return;
  }
#endif
  __builtin_memcpy(to, from, kFlushSide * sizeof(double));
}

// What write_row has written past the cache is there for other threads after this.
static inline void end_flush() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

// out += tile, or with `overwrite` out = tile; with `finish` times `finish_factor`, and the same
// in the mirror image. The tile holds what was written then.
static inline void flush_tile(double finish_factor, const TilePlace& place, bool overwrite,
                              bool finish, double tile[kFlushSide][kFlushSide]) {
  const int64_t below = place.channels - place.row, beside = place.channels - place.column;
  const int64_t rows = below < kFlushSide ? below : kFlushSide;
  const int64_t columns = beside < kFlushSide ? beside : kFlushSide;
  const bool whole = rows == kFlushSide && columns == kFlushSide;
  const bool past_cache = overwrite && finish && whole && place.channels % 8 == 0 &&
                          reinterpret_cast<uintptr_t>(place.out) % 64 == 0;
  const double factor = finish ? finish_factor : 1;
  const bool diagonal = place.row == place.column;
  for (int64_t r = 0; r < rows; ++r) {
    double* to = place.out + (place.row + r) * place.channels + place.column;
    double* row = tile[r];
    // Of a finished diagonal tile the lower part is the mirror image of the upper one.
    const int64_t first = finish && diagonal ? r : 0;
    for (int64_t c = 0; c < first; ++c) row[c] = tile[c][r];
    if (first == 0 && columns == kFlushSide) {  // loops the compiler knows the length of
      for (int c = 0; c < kFlushSide && !overwrite; ++c) row[c] += to[c];
      for (int c = 0; c < kFlushSide; ++c) row[c] *= factor;
    } else {
      for (int64_t c = first; c < columns; ++c) {
        row[c] = (row[c] + (overwrite ? 0 : to[c])) * factor;
      }
    }
    if (columns == kFlushSide) {
      write_row(to, row, past_cache);
    } else {
      for (int64_t c = 0; c < columns; ++c) to[c] = row[c];
    }
  }
  if (!finish || diagonal) return;
  double* mirror = place.out + place.column * place.channels + place.row;
  for (int64_t c = 0; c < columns; ++c, mirror += place.channels) {
    double line[kFlushSide];
    for (int r = 0; r < kFlushSide; ++r) line[r] = tile[r][c];
    if (rows == kFlushSide) {
      write_row(mirror, line, past_cache);
    } else {
      for (int64_t r = 0; r < rows; ++r) mirror[r] = line[r];
    }
  }
}

}  // namespace SBC_ISA
}  // namespace sbc
