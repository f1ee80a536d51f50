#include "spike_gram/cpu_counts.h"

#include "spike_gram/flush_tile.h"
#include "spike_gram/pack_bits.h"

#if defined(__AVX512VPOPCNTDQ__)
#include <immintrin.h>
#endif

namespace sbc {
namespace SBC_ISA {
namespace {

typedef int64_t Longs __attribute__((vector_size(64)));
typedef double Reals __attribute__((vector_size(64)));

inline Longs load_longs(const void* from) {
  Longs value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

inline Longs count_bits(Longs bits) {
#if defined(__AVX512VPOPCNTDQ__)
  return reinterpret_cast<Longs>(_mm512_popcnt_epi64(reinterpret_cast<__m512i>(bits)));
#else
  for (int lane = 0; lane < 8; ++lane) bits[lane] = __builtin_popcountll(bits[lane]);
  return bits;
#endif
}

// The sum over the lanes of each of eight vectors.
inline Longs sum_lanes(const Longs v[8]) {
  const Longs even = {0, 8, 2, 10, 4, 12, 6, 14}, odd = {1, 9, 3, 11, 5, 13, 7, 15};
  const Longs first = {0, 1, 4, 5, 8, 9, 12, 13}, second = {2, 3, 6, 7, 10, 11, 14, 15};
  Longs pairs[4];
  for (int i = 0; i < 4; ++i) {
    pairs[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even) +
               __builtin_shuffle(v[2 * i], v[2 * i + 1], odd);
  }
  Longs fours[2];
  for (int i = 0; i < 2; ++i) {
    fours[i] = __builtin_shuffle(pairs[2 * i], pairs[2 * i + 1], first) +
               __builtin_shuffle(pairs[2 * i], pairs[2 * i + 1], second);
  }
  return __builtin_shuffle(fours[0], fours[1], first) +
         __builtin_shuffle(fours[0], fours[1], second);
}

// total[4][4] += weight * |x & z| over `vectors` vectors of four rows and four columns of bits.
inline void count_block(const uint64_t* x, const uint64_t* z, int64_t stride, int64_t vectors,
                        double weight, double* total) {
  Longs sum[4][4] = {};
  for (int64_t v = 0; v < vectors; ++v, x += 8, z += 8) {
    Longs column[4];
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) column[c] = load_longs(z + c * stride);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const Longs row = load_longs(x + r * stride);
      __builtin_prefetch(x + (r + kCountColumns) * stride);  // of the next block
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) sum[r][c] += count_bits(row & column[c]);
    }
  }
  for (int half = 0; half < 2; ++half) {
    const Reals counts = __builtin_convertvector(sum_lanes(sum[2 * half]), Reals);
    Reals before;
    __builtin_memcpy(&before, total + 8 * half, sizeof(before));
    before += weight * counts;
    __builtin_memcpy(total + 8 * half, &before, sizeof(before));
  }
}

}  // namespace

void pack_counts(const CountBlock& block, int64_t time, int64_t vector) {
  constexpr int64_t kSlice = 512;  // channels whose words stay in first-level cache
  const GramParams& params = *block.params;
  const int64_t num_positions = block.region->num_positions;
  const int64_t padded = (params.channels + kCountColumns - 1) / kCountColumns * kCountColumns;
  const int8_t* rows[kCountSamples];
  for (int64_t s = 0; s < kCountSamples; ++s) {
    const int64_t place = vector * kCountSamples + s, at = block.first_place + place;
    rows[s] = block.zero_row;
    if (place >= block.num_places) continue;
    const int64_t image = at / num_positions;
    const int64_t position = block.region->positions[at - image * num_positions];
    rows[s] = params.spikes + ((time * params.N + image) * params.P + position) * params.C +
              params.first_channel;
  }
  uint64_t* to = block.bits + (time * block.vectors + vector) * 8;
  const int64_t stride = params.T * block.vectors * 8;
  for (int64_t first = 0; first < padded; first += kSlice) {
    const int64_t left = params.channels - first, count = left < kSlice ? left : kSlice;
    uint64_t words[8][kSlice];
    for (int word = 0; word < 8; ++word) {
      const int8_t* shifted[64];
      for (int s = 0; s < 64; ++s) shifted[s] = rows[64 * word + s] + first;
      pack_words(shifted, 1, count, words[word]);
    }
    const int64_t end = padded - first < kSlice ? padded - first : kSlice;
    for (int64_t c = 0; c < end; ++c, to += stride) {
      for (int word = 0; word < 8; ++word) to[word] = c < count ? words[word][c] : 0;
    }
  }
}

void count_pairs(const CountBlock& block, const CountTask& task, double* totals) {
  const GramParams& params = *block.params;
  const int64_t T = params.T, stride = T * block.vectors * 8;
  const auto end_of = [&](int64_t first) {
    return first + kCountTask < params.channels ? first + kCountTask : params.channels;
  };
  const int64_t last_row = end_of(task.first_row), last_column = end_of(task.first_column);
  const auto total = [&](int64_t row, int64_t column) {
    return totals + (column - task.first_column) * kCountTask + (row - task.first_row) * 4;
  };
  const auto last_of = [&](int64_t column) {
    return column + 4 < last_row ? column + 4 : last_row;
  };
  __builtin_memset(totals, 0, kCountTask * kCountTask * sizeof(double));
  const int64_t fit = kCountBlock / (kCountColumns * T * 64), step = fit < 1 ? 1 : fit;
  for (int64_t first = 0; first < block.vectors; first += step) {
    const int64_t vectors = block.vectors - first < step ? block.vectors - first : step;
    for (int64_t column = task.first_column; column < last_column; column += 4) {
      for (int64_t row = task.first_row; row < last_of(column); row += 4) {
        for (int64_t t = 0; t < T; ++t) {
          for (int64_t u = 0; u < T; ++u) {
            const double weight = params.pair_weights[t * T + u];
            if (weight == 0.0) continue;
            count_block(block.bits + row * stride + (t * block.vectors + first) * 8,
                        block.bits + column * stride + (u * block.vectors + first) * 8, stride,
                        vectors, weight, total(row, column));
          }
        }
      }
    }
  }
  const bool overwrite = params.finish != 0 && block.is_first;
  const bool finish = params.finish != 0 && block.is_last;
  for (int64_t row = task.first_row; row < last_row; row += kFlushSide) {
    const int64_t from = row > task.first_column ? row : task.first_column;
    for (int64_t column = from; column < last_column; column += kFlushSide) {
      double tile[kFlushSide][kFlushSide];
      for (int64_t c = 0; c < kFlushSide; c += 4) {
        for (int64_t r = 0; r < kFlushSide; r += 4) {
          const double* from_block = total(row + r, column + c);
          for (int i = 0; i < 4; ++i) {
            __builtin_memcpy(&tile[r + i][c], from_block + 4 * i, 4 * sizeof(double));
          }
        }
      }
      const TilePlace place{block.region->out, params.channels, row, column};
      flush_tile(params, place, overwrite, finish, tile);
    }
  }
  end_flush();
}

}  // namespace SBC_ISA
}  // namespace sbc
