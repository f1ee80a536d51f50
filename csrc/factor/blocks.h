// The blocks of a triangle of tiles. Included by *cpu.cpp files only.
#pragma once

#include "common/tiles.h"
#include "factor/cpu.h"

namespace sbc {
namespace SBC_ISA {

static inline Tiles block_span(const FactorTiles& a, int64_t block) {
  const int64_t first = block * a.block_tiles, end = first + a.block_tiles;
  return {first, end < a.tiles ? end : a.tiles};
}

}  // namespace SBC_ISA
}  // namespace sbc
