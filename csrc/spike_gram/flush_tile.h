// From a kernel's sums to the answer. Included by cpu*.cpp files only.
#pragma once

#include "common/simd.h"
#include "spike_gram/params.h"

namespace sbc {
namespace SBC_ISA {

constexpr int kFlushSide = 16;

// Of a matrix [.., channels], from `first_row` of one shift and `first_column` on: the part of a
// tile that is inside.
struct TilePlace {
  double* out;  // [channels, channels] of the shift
  int64_t channels, row, column;
};

// out += tile, or with `overwrite` out = tile; with `finish` times GramParams::finish, and the same
// in the mirror image. The tile holds what was written then.
static inline void flush_tile(const GramParams& params, const TilePlace& place, bool overwrite,
                              bool finish, double tile[kFlushSide][kFlushSide]) {
  const int64_t below = place.channels - place.row, beside = place.channels - place.column;
  const int64_t rows = below < kFlushSide ? below : kFlushSide;
  const int64_t columns = beside < kFlushSide ? beside : kFlushSide;
  const double factor = finish ? params.finish : 1;
  for (int64_t r = 0; r < rows; ++r) {
    double* to = place.out + (place.row + r) * place.channels + place.column;
    double* row = tile[r];
    if (finish && place.row == place.column) {  // its own mirror image
      for (int64_t c = 0; c < r; ++c) to[c] = row[c] = tile[c][r];
      to += r, row += r;
    }
    const int64_t count = columns - (row - tile[r]);
    if (count == kFlushSide) {  // a loop the compiler knows the length of
      if (!overwrite) {
        for (int c = 0; c < kFlushSide; ++c) row[c] += to[c];
      }
      for (int c = 0; c < kFlushSide; ++c) row[c] *= factor;
      __builtin_memcpy(to, row, sizeof(tile[r]));
    } else {
      for (int64_t c = 0; c < count; ++c) {
        to[c] = row[c] = (row[c] + (overwrite ? 0 : to[c])) * factor;
      }
    }
  }
  if (!finish || place.row == place.column) return;
  double* mirror = place.out + place.column * place.channels + place.row;
  for (int64_t c = 0; c < columns; ++c, mirror += place.channels) {
    for (int64_t r = 0; r < rows; ++r) mirror[r] = tile[r][c];
  }
}

}  // namespace SBC_ISA
}  // namespace sbc
