#include "spike_gram/counts_cpu.h"

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

// totals[8][16] += weight * |x & z| over `words` words of the bits of a panel of eight rows and of
// two panels of eight columns. Lanes are columns: nothing has to be summed across a vector.
inline void count_block(const uint64_t* x, const uint64_t* z, const uint64_t* z_next, int64_t words,
                        double weight, double* totals) {
  Longs sum[kCountPanel][2] = {};
  for (int64_t w = 0; w < words; ++w) {
    const Longs first = load_longs(z + 8 * w), second = load_longs(z_next + 8 * w);
#pragma GCC unroll 8
    for (int r = 0; r < kCountPanel; ++r) {
      const Longs row = Longs{} + static_cast<int64_t>(x[8 * w + r]);
      sum[r][0] += count_bits(row & first);
      sum[r][1] += count_bits(row & second);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kCountPanel; ++r) {
    for (int half = 0; half < 2; ++half) {
      double* to = totals + r * kCountTask + 8 * half;
      Reals before;
      __builtin_memcpy(&before, to, sizeof(before));
      before += weight * __builtin_convertvector(sum[r][half], Reals);
      __builtin_memcpy(to, &before, sizeof(before));
    }
  }
}

}  // namespace

void pack_counts(const CountBlock& block, int64_t time, int64_t group) {
  constexpr int64_t kSlice = 512;  // channels whose words stay in first-level cache
  const CountsParams& params = *block.params;
  const int64_t num_positions = block.region->num_positions;
  const int64_t first_word = group * kCountGroup, left_words = block.words - first_word;
  const int64_t num_words = left_words < kCountGroup ? left_words : kCountGroup;
  const int8_t* rows[kCountGroup * 64];
  for (int64_t s = 0; s < num_words * 64; ++s) {
    const int64_t place = first_word * 64 + s, at = block.first_place + place;
    rows[s] = block.zero_row;
    if (place >= block.num_places) continue;
    const int64_t image = at / num_positions;
    const int64_t position = block.region->positions[at - image * num_positions];
    rows[s] = params.spikes + ((time * params.N + image) * params.P + position) * params.C +
              params.first_channel;
  }
  for (int64_t first = 0; first < block.padded; first += kSlice) {
    const int64_t left = params.channels - first, count = left < kSlice ? left : kSlice;
    const int64_t beyond = block.padded - first, end = beyond < kSlice ? beyond : kSlice;
    uint64_t words[kCountGroup][kSlice];
    for (int64_t word = 0; word < num_words; ++word) {
      const int8_t* shifted[64];
      for (int s = 0; s < 64; ++s) shifted[s] = rows[64 * word + s] + first;
      pack_words(shifted, 1, count, words[word]);
      for (int64_t c = count; c < end; ++c) words[word][c] = 0;
    }
    for (int64_t c = 0; c < end; c += kCountPanel) {
      uint64_t* to = block.panel(first + c, time) + first_word * 8;
      for (int64_t word = 0; word < num_words; ++word) {
        __builtin_memcpy(to + 8 * word, words[word] + c, 64);
      }
    }
  }
}

void count_pairs(const CountBlock& block, const CountTask& task, double* totals) {
  const CountsParams& params = *block.params;
  const int64_t T = params.T;
  const auto end_of = [&](int64_t first) {
    return first + kCountTask < params.channels ? first + kCountTask : params.channels;
  };
  const int64_t last_row = end_of(task.first_row), last_column = end_of(task.first_column);
  __builtin_memset(totals, 0, kCountTask * kCountTask * sizeof(double));
  const int64_t fit = kCountBytes / (kCountColumns * T * 8), step = fit < 1 ? 1 : fit;
  for (int64_t first = 0; first < block.words; first += step) {
    const int64_t words = block.words - first < step ? block.words - first : step;
    for (int64_t column = task.first_column; column < last_column; column += kCountColumns) {
      const int64_t past = column + kCountColumns, end = past < last_row ? past : last_row;
      for (int64_t row = task.first_row; row < end; row += kCountPanel) {
        double* to = totals + (row - task.first_row) * kCountTask + column - task.first_column;
        for (int64_t t = 0; t < T; ++t) {
          for (int64_t u = 0; u < T; ++u) {
            const double weight = params.pair_weights[t * T + u];
            if (weight == 0.0) continue;
            count_block(block.panel(row, t) + first * 8, block.panel(column, u) + first * 8,
                        block.panel(column + kCountPanel, u) + first * 8, words, weight, to);
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
      const double* counted =
          totals + (row - task.first_row) * kCountTask + column - task.first_column;
      for (int r = 0; r < kFlushSide; ++r) {
        __builtin_memcpy(tile[r], counted + r * kCountTask, sizeof(tile[r]));
      }
      const TilePlace place{block.region->out, params.channels, row, column};
      flush_tile(params.finish, place, overwrite, finish, tile);
    }
  }
  end_flush();
}

}  // namespace SBC_ISA
}  // namespace sbc
