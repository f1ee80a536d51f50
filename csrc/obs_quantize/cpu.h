// The inner loops of obs_quantize, compiled once for each instruction set.
#pragma once

#include "common/isa.h"
#include "obs_quantize/params.h"

namespace sbc {

// A few neighbouring columns of R, packed: rows [first + width, panel_columns], zero-padded.
struct SweepPanel {
  int64_t first;   // column of the sweep
  int width;       // live columns, at most panel_columns
  int64_t offset;  // into the packed factor
};

// The rows of a weight are the lanes of vectors: `tile_rows` of them are swept at once.
template <class T>
struct SweepTile {
  const ObsQuantizeParams<T>* params;
  const T* packed;  // R, panel after panel
  int64_t first_row;
  T* errors;  // [d, tile_rows]: w - q of the finished columns
  T* scores;  // [rows, block_size] of the current block, or null
  T* loss;    // [tile_rows]
};

#define SBC_DECLARE(isa)                                                                    \
  namespace isa {                                                                           \
  extern const int sweep_panel_columns;                                                     \
  template <class T>                                                                        \
  int64_t sweep_tile_rows();                                                                \
  template <class T>                                                                        \
  void score_panel(const SweepTile<T>& tile, const SweepPanel& panel, int64_t block_first); \
  template <class T>                                                                        \
  void round_panel(const SweepTile<T>& tile, const SweepPanel& panel);                      \
  }
SBC_FOR_EACH_ISA(SBC_DECLARE)
#undef SBC_DECLARE

}  // namespace sbc
