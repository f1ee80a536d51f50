#include "spike_gram/cpu_bytes.h"

#include "common/simd.h"

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

// Place and time of one sample after the other, without the divisions.
class Samples {
 public:
  Samples(const ByteBlock& block, int64_t first_sample) : block_(block) {
    const int64_t T = block.params->T;
    place_ = first_sample / T, time_ = first_sample % T;
    const int64_t at = block.first_place + place_;
    image_ = at / block.region->num_positions, index_ = at % block.region->num_positions;
  }
  bool live() const { return place_ < block_.num_places; }
  int64_t position() const { return block_.region->positions[index_]; }
  const int8_t* row(int64_t time, int64_t position) const {
    const GramParams& g = *block_.params;
    return g.spikes + ((time * g.N + image_) * g.P + position) * g.C + g.first_channel;
  }
  int64_t time() const { return time_; }
  void next_place() {
    ++place_;
    if (++index_ == block_.region->num_positions) index_ = 0, ++image_;
  }
  void next() {
    if (++time_ == block_.params->T) time_ = 0, next_place();
  }

 private:
  const ByteBlock& block_;
  int64_t place_, time_, image_, index_;
};

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
  __m512i joined = _mm512_castsi128_si512(row(0));
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
  const int8_t* rows[kStepSamples];
  Samples sample(block, step * kStepSamples);
  for (const int8_t*& row : rows) {
    const int64_t there = sample.live() ? neighbours[sample.position()] : -1;
    row = there < 0 ? block.zero_row : sample.row(sample.time(), there);
    sample.next();
  }
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const int64_t at = tile * kByteColumns;
    if (tile % 4 == 0) {
      for (const int8_t* row : rows) __builtin_prefetch(row + at + 256);
    }
    alignas(64) char packed[kByteTile];
    char* to = right == nullptr ? packed : right->tile(step, tile);
    pack_tile(rows, at, block.params->channels - at, to);
    transpose_tile(to, block.left.tile(step, left_tile + tile));
  }
}

template <class Real>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float Reals __attribute__((vector_size(64)));
  typedef int32_t Integers __attribute__((vector_size(64)));
  typedef int8_t Small __attribute__((vector_size(16)));
};
template <>
struct Lanes<double> {
  typedef double Reals __attribute__((vector_size(64)));
  typedef int64_t Integers __attribute__((vector_size(64)));
  typedef int8_t Small __attribute__((vector_size(8)));
};

inline Words widen(const Spikes16& spikes) {
#if defined(__AMX_INT8__)  // which the compiler does not find by itself
  return reinterpret_cast<Words>(_mm512_cvtepi8_epi32(load_row<__m128i>(&spikes)));
#else
  Words wide;
  for (int i = 0; i < 16; ++i) wide[i] = spikes.values[i];
  return wide;
#endif
}
inline void store_reals(float* to, Words words) {
  store_row(to, __builtin_convertvector(words, Lanes<float>::Reals));
}
inline void store_reals(double* to, Words words) {
  typedef int32_t Half __attribute__((vector_size(32)));
  Half halves[2];
  __builtin_memcpy(halves, &words, sizeof(words));
  store_row(to, __builtin_convertvector(halves[0], Lanes<double>::Reals));
  store_row(to + 8, __builtin_convertvector(halves[1], Lanes<double>::Reals));
}

// Digits of Z = F X for one unit and 16 channels. Real holds every integer that occurs: its
// multiply-adds are exact, and the fastest there are.
template <class Real>
void filter_unit(const ByteBlock& block, const Real* weights, int64_t unit, int64_t at,
                 const ByteScratch& scratch) {
  typedef typename Lanes<Real>::Reals Reals;
  typedef typename Lanes<Real>::Integers Integers;
  typedef typename Lanes<Real>::Small Small;
  constexpr int lanes = 64 / sizeof(Real);
  const GramParams& params = *block.params;
  const int64_t T = params.T, live = params.channels - at;
  const int64_t digit_bytes = block.unit_places * T * kByteColumns;
  Real* x = reinterpret_cast<Real*>(scratch.spikes);
  char* to = scratch.digits;
  Samples place(block, unit * block.unit_places * T);
  for (int64_t p = 0; p < block.unit_places; ++p, place.next_place()) {
    if (!place.live()) {
      for (int digit = 0; digit < params.digits; ++digit) {
        __builtin_memset(to + digit * digit_bytes, 0, T * kByteColumns);
      }
      to += T * kByteColumns;
      continue;
    }
    for (int64_t time = 0; time < T; ++time) {
      const int8_t* row = place.row(time, place.position()) + at;
      __builtin_prefetch(row + 64);
      store_reals(x + time * kByteColumns, widen(load_spikes(row, live)));
    }
    for (int64_t time = 0; time < T; time += kTimes) {
      for (int half = 0; half < kByteColumns; half += lanes) {
        Reals sums[kTimes] = {};
        const int64_t sources = params.squared && time + kTimes < T ? time + kTimes : T;
        for (int64_t source = 0; source < sources; ++source) {
          const Reals spikes = load_row<Reals>(x + source * kByteColumns + half);
          for (int i = 0; i < kTimes; ++i) sums[i] += weights[(time + i) * T + source] * spikes;
        }
        for (int i = 0; i < kTimes && time + i < T; ++i) {
          Integers z = __builtin_convertvector(sums[i], Integers);
          char* row = to + (time + i) * kByteColumns + half;
          for (int digit = 0; digit < params.digits; ++digit, z >>= 8) {
            store_row(row + digit * digit_bytes, __builtin_convertvector(z, Small));
          }
        }
      }
    }
    to += T * kByteColumns;
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

#else  // the same in plain C++, so that every machine can test what surrounds it

inline void begin_tiles() {}
inline void end_tiles() {}

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

// out += weight * sums, for the tiles of one pair of panels.
void flush_sums(const ByteBlock& block, int64_t left_panel, int64_t right_panel, const char* sums,
                double weight) {
  typedef double Reals __attribute__((vector_size(64)));
  typedef int32_t Half __attribute__((vector_size(32)));
  const int64_t channels = block.params->channels, tiles = byte_tiles(channels);
  for (int quarter = 0; quarter < 4; ++quarter, sums += kByteTile) {
    const int64_t row_tile = 2 * left_panel + quarter / 2,
                  column = 16 * (2 * right_panel + quarter % 2);
    const int64_t shift = row_tile / tiles, first = row_tile % tiles * 16;
    if (shift >= block.region->num_shifts || column >= channels) continue;
    const int64_t rows = channels - first < 16 ? channels - first : 16;
    for (int64_t row = 0; row < rows; ++row) {
      const int32_t* from = reinterpret_cast<const int32_t*>(sums) + row * 16;
      double* out = block.region->out + (shift * channels + first + row) * channels + column;
      if (column + 16 <= channels) {
        for (int half = 0; half < 16; half += 8) {
          const Reals sum = __builtin_convertvector(load_row<Half>(from + half), Reals);
          store_row(out + half, load_row<Reals>(out + half) + weight * sum);
        }
      } else {
        for (int64_t c = 0; column + c < channels; ++c) out[c] += weight * from[c];
      }
    }
  }
}

template <Signs signs>
void multiply_digit(const ByteBlock& block, const ByteTask& task, const ByteScratch& scratch,
                    const ByteOperand& right, double weight) {
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
    for (int64_t j = task.first_right; j < task.last_right; ++j) {
      for (int64_t i = task.first_left; i < end_of(j); ++i) {
        flush_sums(block, i, j, sums_of(i, j), weight);
      }
    }
  }
}

}  // namespace

void pack_bytes(const ByteBlock& block, int64_t unit, int64_t first_tile, int64_t last_tile,
                const ByteScratch& scratch) {
  const GramParams& params = *block.params;
  const int64_t unit_steps = block.unit_places * params.T / kStepSamples;
  const int64_t first = unit * unit_steps;
  const int64_t last = first + unit_steps < block.num_steps ? first + unit_steps : block.num_steps;
  const bool plain = params.squared && params.T == 1 && params.matched_filter[0] == 1;  // Z = X
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
      filter_unit(block, block.weights32, unit, tile * kByteColumns, scratch);
    } else {
      filter_unit(block, block.weights64, unit, tile * kByteColumns, scratch);
    }
    const char* from = scratch.digits;
    for (int digit = 0; digit < params.digits; ++digit) {
      for (int64_t step = first; step < first + unit_steps; ++step, from += kByteTile) {
        if (step >= last) continue;
        char* to = block.right[digit].tile(step, tile);
        for (int quartet = 0; quartet < 16; ++quartet) {
          store_row(to + 64 * quartet, interleave(load_row<Bytes>(from + 64 * quartet)));
        }
        if (params.squared) transpose_tile(to, block.left.tile(step, tile));
      }
    }
  }
}

void multiply_bytes(const ByteBlock& block, const ByteTask& task, const ByteScratch& scratch) {
  const GramParams& params = *block.params;
  begin_tiles();
  // From the highest digit down: no sum on the way leaves the range of the last one by much.
  for (int digit = params.digits - 1; digit >= 0; --digit) {
    const double weight = static_cast<double>(int64_t{1} << (8 * digit));
    const ByteOperand& right = block.right[digit];
    const bool is_signed = params.is_signed && digit == params.digits - 1;
    if (is_signed) {
      multiply_digit<Signs::both_signed>(block, task, scratch, right, weight);
    } else if (params.squared) {
      multiply_digit<Signs::both_unsigned>(block, task, scratch, right, weight);
    } else {
      multiply_digit<Signs::left_signed>(block, task, scratch, right, weight);
    }
  }
  end_tiles();
}

}  // namespace SBC_ISA
}  // namespace sbc
