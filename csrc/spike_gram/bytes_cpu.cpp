#include "spike_gram/bytes_cpu.h"

#include "spike_gram/flush_tile.h"

#if defined(__AMX_INT8__)
#include <immintrin.h>
#endif

namespace sbc {
namespace SBC_ISA {
namespace {

// 64 bytes whatever the instruction set: the width of a tile's row.
typedef uint8_t Bytes __attribute__((vector_size(64)));
typedef int32_t Words __attribute__((vector_size(64)));

template <class V>
inline V load_row(const void* from) {
  V row;
  __builtin_memcpy(&row, from, sizeof(row));
  return row;
}
template <class V>
inline void store_row(void* to, V row) {
  __builtin_memcpy(to, &row, sizeof(row));
}

// Spikes of 16 channels, those past the last one silent.
struct Spikes16 {
  int8_t values[kByteColumns];
};
inline Spikes16 load_spikes(const int8_t* from, int64_t live) {
  Spikes16 spikes;
  if (live >= kByteColumns) {
    __builtin_memcpy(&spikes, from, sizeof(spikes));
  } else {
    __builtin_memset(&spikes, 0, sizeof(spikes));
    __builtin_memcpy(&spikes, from, live);
  }
  return spikes;
}

// ---- packing ------------------------------------------------------------------------------------

// First spike of a place at time 0; silence past the last place and where `neighbours` leave the
// map.
inline const int8_t* place_row(const ByteBlock& block, int64_t place, const int32_t* neighbours) {
  const BytesParams& g = *block.params;
  const GramRegion& region = *block.region;
  if (place >= block.num_places) return nullptr;
  const int64_t at = block.first_place + place;
  const int64_t image = region.num_positions == 1 ? at : at / region.num_positions;
  int64_t position = region.positions[at - image * region.num_positions];
  if (neighbours != nullptr) position = neighbours[position];
  if (position < 0) return nullptr;
  return g.spikes + (image * g.P + position) * g.C + g.first_channel;
}

// Four samples of 16 columns: from [sample][column] to [column][sample].
inline Bytes interleave(Bytes rows) {
  const Bytes order = {0,  16, 32, 48, 1,  17, 33, 49, 2,  18, 34, 50, 3,  19, 35, 51,
                       4,  20, 36, 52, 5,  21, 37, 53, 6,  22, 38, 54, 7,  23, 39, 55,
                       8,  24, 40, 56, 9,  25, 41, 57, 10, 26, 42, 58, 11, 27, 43, 59,
                       12, 28, 44, 60, 13, 29, 45, 61, 14, 30, 46, 62, 15, 31, 47, 63};
  return __builtin_shuffle(rows, order);
}

inline Bytes join(const int8_t* const* rows, int64_t at) {
#if defined(__AMX_INT8__)
  const auto row = [=](int i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + at));
  };
  __m512i joined = _mm512_zextsi128_si512(row(0));
  joined = _mm512_inserti32x4(joined, row(1), 1);
  joined = _mm512_inserti32x4(joined, row(2), 2);
  return reinterpret_cast<Bytes>(_mm512_inserti32x4(joined, row(3), 3));
#else
  int8_t joined[64];
  for (int i = 0; i < 4; ++i) __builtin_memcpy(joined + 16 * i, rows[i] + at, 16);
  return load_row<Bytes>(joined);
#endif
}

// A right tile to a left one: words [16, 16] transposed, by exchanging ever larger blocks.
void transpose_tile(const char* from, char* to) {
  Words a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = load_row<Words>(from + 64 * i);
  const Words low1 = {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30};
  const Words low2 = {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29};
  const Words low4 = {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27};
  const Words low8 = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23};
  const auto exchange = [](const Words* in, Words* out, int distance, Words low) {
    const Words high = low + distance;
    for (int i = 0; i < 16; ++i) {
      if (i & distance) continue;
      out[i] = __builtin_shuffle(in[i], in[i + distance], low);
      out[i + distance] = __builtin_shuffle(in[i], in[i + distance], high);
    }
  };
  exchange(a, b, 1, low1);
  exchange(b, a, 2, low2);
  exchange(a, b, 4, low4);
  exchange(b, a, 8, low8);
  for (int i = 0; i < 16; ++i) store_row(to + 64 * i, a[i]);
}

// One right tile of spikes as they are: 64 rows, 16 channels from `at` on.
void pack_tile(const int8_t* const* rows, int64_t at, int64_t live, char* to) {
  if (live >= kByteColumns) {
    for (int quartet = 0; quartet < 16; ++quartet, to += 64) {
      store_row(to, interleave(join(rows + 4 * quartet, at)));
    }
    return;
  }
  for (int quartet = 0; quartet < 16; ++quartet, to += 64) {
    Spikes16 spikes[4];
    for (int i = 0; i < 4; ++i) spikes[i] = load_spikes(rows[4 * quartet + i] + at, live);
    store_row(to, interleave(load_row<Bytes>(spikes)));
  }
}

// X shifted, one step: left tiles from `left_tile` on, and right ones where `right` is given.
void pack_step(const ByteBlock& block, int64_t step, const int32_t* neighbours, int64_t first_tile,
               int64_t last_tile, int64_t left_tile, const ByteOperand* right) {
  const BytesParams& params = *block.params;
  const int64_t time_stride = params.N * params.P * params.C;
  int64_t quad = step * 16 / params.T, time = step * 16 % params.T;
  const int8_t *rows[kStepSamples], *places[4] = {};
  for (int quartet = 0; quartet < 16; ++quartet, ++time) {
    if (time == params.T) time = 0, ++quad;
    for (int i = 0; i < 4; ++i) {
      if (quartet == 0 || time == 0) places[i] = place_row(block, 4 * quad + i, neighbours);
      rows[4 * quartet + i] = places[i] ? places[i] + time * time_stride : block.zero_row;
    }
  }
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const int64_t at = tile * kByteColumns;
    if (tile % 4 == 0) {
      for (const int8_t* row : rows) __builtin_prefetch(row + at + 256);
    }
    alignas(64) char packed[kByteTile];
    char* to = right == nullptr ? packed : right->tile(step, tile);
    pack_tile(rows, at, params.channels - at, to);
    transpose_tile(to, block.left.tile(step, left_tile + tile));
  }
}

typedef int32_t HalfWords __attribute__((vector_size(32)));
typedef int64_t Longs __attribute__((vector_size(64)));

inline Words join_halves(HalfWords low, HalfWords high) {
  const HalfWords halves[2] = {low, high};
  return load_row<Words>(halves);
}

// A number for each of 16 columns.
template <class Real>
struct Sixteen {
  typedef Real V __attribute__((vector_size(64)));
  static constexpr int vectors = 16 * sizeof(Real) / 64;
  V v[vectors];
};

inline void widen(const Spikes16& spikes, Sixteen<float>& to) {
#if defined(__AMX_INT8__)  // which the compiler does not find by itself
  const Words words =
      reinterpret_cast<Words>(_mm512_maskz_cvtepi8_epi32(0xffff, load_row<__m128i>(&spikes)));
#else
  Words words;
  for (int i = 0; i < 16; ++i) words[i] = spikes.values[i];
#endif
  to.v[0] = __builtin_convertvector(words, Sixteen<float>::V);
}
inline void widen(const Spikes16& spikes, Sixteen<double>& to) {
  typedef float HalfFloats __attribute__((vector_size(32)));
  Sixteen<float> floats;
  widen(spikes, floats);
  HalfFloats halves[2];
  __builtin_memcpy(halves, &floats, sizeof(floats));
  for (int h = 0; h < 2; ++h) to.v[h] = __builtin_convertvector(halves[h], Sixteen<double>::V);
}

// Where one quartet of samples goes in the tiles of every digit.
struct QuartetRow {
  const ByteBlock& block;
  int64_t offset;

  // Digits first .. last - 1, which are the bytes of z from the lowest on.
  void store(const Words z[4], int first, int last) const {
    for (int digit = first; digit < last; ++digit) {
      const int shift = 8 * (digit - first);
      const auto byte = [=](int i) { return z[i] >> shift & 255; };
      const Words row = byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
      store_row(block.right[digit].data + offset, row);
    }
  }
};

inline void store_digits(const Sixteen<float> sums[4], int digits, bool, const QuartetRow& row) {
  Words z[4];
  for (int i = 0; i < 4; ++i) z[i] = __builtin_convertvector(sums[i].v[0], Words);
  row.store(z, 0, digits);
}
inline void store_digits(const Sixteen<double> sums[4], int digits, bool in_words,
                         const QuartetRow& row) {
  Words z[4];
  if (in_words) {
    for (int i = 0; i < 4; ++i) {
      z[i] = join_halves(__builtin_convertvector(sums[i].v[0], HalfWords),
                         __builtin_convertvector(sums[i].v[1], HalfWords));
    }
    return row.store(z, 0, digits);
  }
  Longs rest[4][2];
  for (int i = 0; i < 8; ++i) {
    rest[i / 2][i % 2] = __builtin_convertvector(sums[i / 2].v[i % 2], Longs);
  }
  for (int first = 0; first < digits; first += 3) {  // a word holds three digits and a sign
    for (int i = 0; i < 4; ++i) {
      z[i] = join_halves(__builtin_convertvector(rest[i][0], HalfWords),
                         __builtin_convertvector(rest[i][1], HalfWords));
      rest[i][0] >>= 24, rest[i][1] >>= 24;
    }
    row.store(z, first, first + 3 < digits ? first + 3 : digits);
  }
}

// Digits of Z = F X for one unit and 16 channels. Real holds every integer that occurs: its
// multiply-adds are exact, and the fastest there are.
template <class Real>
void filter_unit(const ByteBlock& block, const Real* weights, int64_t unit, int64_t tile,
                 const ByteScratch& scratch) {
  const BytesParams& params = *block.params;
  const int64_t T = params.T, at = tile * kByteColumns, live = params.channels - at;
  const int64_t time_stride = params.N * params.P * params.C, quads = block.unit_places / 4;
  const bool in_words = params.max_term < int64_t{1} << 31;
  Sixteen<Real>* x = reinterpret_cast<Sixteen<Real>*>(scratch.spikes);
  for (int64_t quad = unit * quads; quad < (unit + 1) * quads; ++quad) {
    for (int i = 0; i < 4; ++i) {
      const int8_t* place = place_row(block, 4 * quad + i, nullptr);
      for (int64_t time = 0; time < T; ++time) {
        const int8_t* row = (place ? place + time * time_stride : block.zero_row) + at;
        __builtin_prefetch(row + 64);
        widen(load_spikes(row, live), x[4 * time + i]);
      }
    }
    for (int64_t time = 0; time < T; ++time) {
      const int64_t quartet = quad * T + time, step = quartet / 16;
      if (step >= block.num_steps) return;
      const Real* row = weights + time * T;
      const int64_t sources = params.squared ? time + 1 : T;  // M is causal
      Sixteen<Real> sums[4] = {};
      for (int64_t source = 0; source < sources; ++source) {
        for (int i = 0; i < 4; ++i) {
          for (int v = 0; v < Sixteen<Real>::vectors; ++v) {
            sums[i].v[v] += row[source] * x[4 * source + i].v[v];
          }
        }
      }
      const int64_t offset = block.right[0].tile(step, tile) - block.right[0].data;
      store_digits(sums, params.digits, in_words, {block, offset + quartet % 16 * 64});
    }
  }
}

// ---- products -----------------------------------------------------------------------------------

enum class Signs { both_unsigned, left_signed, both_signed };

#if defined(__AMX_INT8__)

struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

inline void begin_tiles() {
  const TileConfig config;
  _tile_loadconfig(&config);
}
inline void end_tiles() { _tile_release(); }

// Tiles 0 to 3 are the sums of two by two tiles, 4 and 5 the left ones, 6 and 7 the right ones.
template <Signs signs>
inline void multiply_panels(const char* left, const char* right, char* sums, int64_t steps,
                            bool clear) {
  if (clear) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, 64);
    _tile_loadd(1, sums + kByteTile, 64);
    _tile_loadd(2, sums + 2 * kByteTile, 64);
    _tile_loadd(3, sums + 3 * kByteTile, 64);
  }
  for (int64_t step = 0; step < steps; ++step, left += 2 * kByteTile, right += 2 * kByteTile) {
    _tile_loadd(6, right, 64);
    _tile_loadd(4, left, 64);
    _tile_loadd(7, right + kByteTile, 64);
    _tile_loadd(5, left + kByteTile, 64);
    if (signs == Signs::both_unsigned) {
      _tile_dpbuud(0, 4, 6);
      _tile_dpbuud(1, 4, 7);
      _tile_dpbuud(2, 5, 6);
      _tile_dpbuud(3, 5, 7);
    } else if (signs == Signs::left_signed) {
      _tile_dpbsud(0, 4, 6);
      _tile_dpbsud(1, 4, 7);
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
    } else {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + kByteTile, 64);
  _tile_stored(2, sums + 2 * kByteTile, 64);
  _tile_stored(3, sums + 3 * kByteTile, 64);
}

#else

inline void begin_tiles() {}
inline void end_tiles() {}

// The same in plain C++, so that every machine can test what surrounds it.
template <Signs signs>
void multiply_panels(const char* left, const char* right, char* sums, int64_t steps, bool clear) {
  if (clear) __builtin_memset(sums, 0, kByteSums);
  for (int64_t step = 0; step < steps; ++step, left += 2 * kByteTile, right += 2 * kByteTile) {
    for (int tile = 0; tile < 4; ++tile) {
      const char* a = left + tile / 2 * kByteTile;
      const char* b = right + tile % 2 * kByteTile;
      int32_t* c = reinterpret_cast<int32_t*>(sums + tile * kByteTile);
      for (int row = 0; row < 16; ++row) {
        for (int k = 0; k < 64; ++k) {
          const int8_t byte = static_cast<int8_t>(a[row * 64 + k]);
          const int32_t x = signs == Signs::both_unsigned ? static_cast<uint8_t>(byte) : byte;
          for (int column = 0; column < 16; ++column) {
            const int8_t other = static_cast<int8_t>(b[k / 4 * 64 + column * 4 + k % 4]);
            const int32_t z = signs == Signs::both_signed ? other : static_cast<uint8_t>(other);
            c[row * 16 + column] += x * z;
          }
        }
      }
    }
  }
}

#endif

// What a flush does with the answer, see BytesParams::finish.
struct Flush {
  double weight;
  bool overwrite, finish;
};

// The four tiles of a pair of panels to the answer.
void flush_sums(const ByteBlock& block, int64_t left_panel, int64_t right_panel, const char* sums,
                const Flush& flush) {
  const int64_t channels = block.params->channels, tiles = byte_tiles(channels);
  for (int quarter = 0; quarter < 4; ++quarter, sums += kByteTile) {
    const int64_t row_tile = 2 * left_panel + quarter / 2;
    const int64_t column_tile = 2 * right_panel + quarter % 2;
    const int64_t shift = row_tile / tiles;
    if (shift >= block.region->num_shifts || column_tile >= tiles) continue;
    if (flush.finish && row_tile > column_tile) continue;  // its mirror image writes it
    const int32_t* sum = reinterpret_cast<const int32_t*>(sums);
    double tile[kFlushSide][kFlushSide];
    for (int i = 0; i < 256; ++i) tile[i / 16][i % 16] = flush.weight * sum[i];
    double* out = block.region->out + shift * channels * channels;
    const TilePlace place{out, channels, row_tile % tiles * 16, column_tile * 16};
    flush_tile(block.params->finish, place, flush.overwrite, flush.finish, tile);
  }
}

template <Signs signs>
void multiply_digit(const ByteBlock& block, const ByteTask& task, const ByteScratch& scratch,
                    int digit) {
  const ByteOperand& right = block.right[digit];
  const bool finishes = block.params->finish != 0;
  const bool triangle = block.params->triangle;
  const int64_t chunks = (block.num_steps + kChunkSteps - 1) / kChunkSteps;
  const int64_t height = task.last_left - task.first_left;
  const auto sums_of = [&](int64_t i, int64_t j) {
    return scratch.sums + ((j - task.first_right) * height + i - task.first_left) * kByteSums;
  };
  const auto end_of = [&](int64_t j) {
    return triangle && j + 1 < task.last_left ? j + 1 : task.last_left;
  };
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t left_over = block.num_steps - chunk * kChunkSteps;
    const int64_t steps = left_over < kChunkSteps ? left_over : kChunkSteps;
    for (int64_t j = task.first_right; j < task.last_right; ++j) {
      for (int64_t i = task.first_left; i < end_of(j); ++i) {
        multiply_panels<signs>(block.left.panel(chunk, i), right.panel(chunk, j), sums_of(i, j),
                               steps, chunk % kFlushChunks == 0);
      }
    }
    if (chunk % kFlushChunks < kFlushChunks - 1 && chunk + 1 < chunks) continue;
    const Flush flush{
        static_cast<double>(int64_t{1} << (8 * digit)),
        finishes && block.is_first && digit == block.params->digits - 1 && chunk < kFlushChunks,
        finishes && block.is_last && digit == 0 && chunk + 1 == chunks};
    for (int64_t j = task.first_right; j < task.last_right; ++j) {
      for (int64_t i = task.first_left; i < end_of(j); ++i) {
        flush_sums(block, i, j, sums_of(i, j), flush);
      }
    }
  }
}

}  // namespace

void pack_bytes(const ByteBlock& block, int64_t unit, int64_t first_tile, int64_t last_tile,
                const ByteScratch& scratch) {
  const BytesParams& params = *block.params;
  const int64_t unit_steps = block.unit_places * params.T / kStepSamples;
  const int64_t first = unit * unit_steps;
  const int64_t last = first + unit_steps < block.num_steps ? first + unit_steps : block.num_steps;
  const bool plain = params.squared && params.T == 1 && params.filter[0] == 1;  // Z = X
  const int64_t shifts = params.squared && !plain ? 0 : block.region->num_shifts;
  for (int64_t shift = 0; shift < shifts; ++shift) {
    const int32_t* neighbours = block.region->neighbours + shift * params.P;
    for (int64_t step = first; step < last; ++step) {
      pack_step(block, step, neighbours, first_tile, last_tile, shift * byte_tiles(params.channels),
                plain ? &block.right[0] : nullptr);
    }
  }
  if (plain) return;
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    if (block.weights32 != nullptr) {
      filter_unit(block, block.weights32, unit, tile, scratch);
    } else {
      filter_unit(block, block.weights64, unit, tile, scratch);
    }
    for (int64_t step = first; step < last && params.squared; ++step) {
      transpose_tile(block.right[0].tile(step, tile), block.left.tile(step, tile));
    }
  }
}

void multiply_bytes(const ByteBlock& block, const ByteTask& task, const ByteScratch& scratch) {
  const BytesParams& params = *block.params;
  begin_tiles();
  // From the highest digit down: no sum on the way leaves the range of the last one by much.
  for (int digit = params.digits - 1; digit >= 0; --digit) {
    const bool is_signed = params.is_signed && digit == params.digits - 1;
    if (is_signed) {
      multiply_digit<Signs::both_signed>(block, task, scratch, digit);
    } else if (params.squared) {
      multiply_digit<Signs::both_unsigned>(block, task, scratch, digit);
    } else {
      multiply_digit<Signs::left_signed>(block, task, scratch, digit);
    }
  }
  end_tiles();
  end_flush();
}

}  // namespace SBC_ISA
}  // namespace sbc
