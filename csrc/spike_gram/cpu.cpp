#include "spike_gram/cpu.h"

#include "common/simd.h"

namespace sbc {
namespace SBC_ISA {
namespace {

// A sample's number is ((image * num_positions) + position) * T + time.
struct Sample {
  int64_t image, position, time;
};

inline Sample locate(const GramBlock& block, int64_t sample) {
  const int64_t T = block.params->T, place = sample / T;
  return {block.first_image + place / block.region->num_positions,
          block.region->positions[place % block.region->num_positions], sample % T};
}

inline const int8_t* spike_row(const GramParams& params, int64_t time, int64_t image,
                               int64_t position) {
  return params.spikes + ((time * params.N + image) * params.P + position) * params.C +
         params.first_channel;
}

// What the first sums of `Lane` are flushed into, and the largest value each of them holds.
template <class Lane>
struct Wider;
template <>
struct Wider<uint8_t> {
  typedef uint16_t type;
  static constexpr int64_t max = 255, wide_max = 65535;
};
template <>
struct Wider<int16_t> {
  typedef int32_t type;
  static constexpr int64_t max = 32767, wide_max = 2147483647;
};
template <>
struct Wider<int32_t> {
  typedef int64_t type;
  static constexpr int64_t max = 2147483647, wide_max = INT64_MAX;
};
template <>
struct Wider<int64_t> {
  typedef int64_t type;
  static constexpr int64_t max = INT64_MAX, wide_max = INT64_MAX;
};

// Z = K X for one tile of columns, every sample of the block, padded with silence to whole groups.
template <class Lane>
void filter_values(const GramBlock& block, const GramTile& tile) {
  const GramParams& params = *block.params;
  constexpr int lanes = kTileBytes / sizeof(Lane);
  const int64_t T = params.T;
  const int64_t live = params.channels - tile.first_column < lanes
                           ? params.channels - tile.first_column
                           : lanes;
  Lane* values = reinterpret_cast<Lane*>(tile.values);
  __builtin_memset(values + block.num_samples * lanes, 0,
                   (block.num_groups * kGroupSamples - block.num_samples) * kTileBytes);
  for (int64_t place = 0; place < block.num_samples / T; ++place) {
    const Sample at = locate(block, place * T);
    Lane* rows = values + place * T * lanes;
    for (int64_t source = 0; source < T; ++source) {
      int8_t spikes[lanes] = {};
      const int8_t* from =
          spike_row(params, source, at.image, at.position) + tile.first_column;
      if (live == lanes) {
        __builtin_memcpy(spikes, from, lanes);
      } else {
        __builtin_memcpy(spikes, from, live);
      }
      for (int64_t time = 0; time < T; ++time) {
        const Lane weight = static_cast<Lane>(params.matched_filter[time * T + source]);
        Lane* row = rows + time * lanes;
        if (source == 0) {
          for (int lane = 0; lane < lanes; ++lane) row[lane] = static_cast<Lane>(weight * spikes[lane]);
        } else {
          for (int lane = 0; lane < lanes; ++lane) row[lane] = static_cast<Lane>(row[lane] + weight * spikes[lane]);
        }
      }
    }
  }
}

// All 64 subset sums of six rows of Z, by doubling: 63 adds and 64 stores for six samples.
template <class Lane>
void build_table(const char* values, char* table) {
  constexpr int vectors = kTileBytes / kVectorBytes;
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    char* column = table + v * kVectorBytes;
    store<Lane>(column, Vector<Lane>{});
#pragma GCC unroll 6
    for (int bit = 0; bit < kGroupSamples; ++bit) {
      const Vector<Lane> value = load<Lane>(values + bit * kTileBytes + v * kVectorBytes);
#pragma GCC unroll 4
      for (int entry = 0; entry < 1 << bit; ++entry) {
        store<Lane>(column + (entry + (1 << bit)) * kTileBytes,
                    load<Lane>(column + entry * kTileBytes) + value);
      }
    }
  }
}

// Z times -2 or 2: what the next bit plane of X weighs.
template <class Lane>
void scale_values(const GramBlock& block, const GramTile& tile, Lane factor) {
  Lane* values = reinterpret_cast<Lane*>(tile.values);
  const int64_t count = block.num_samples * (kTileBytes / sizeof(Lane));
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<Lane>(values[i] * factor);
}

// sums[row] += the table rows that the row's bits name. This is where the time goes: per row and
// table one index load, one shift and two (AVX2) loads fused with adds.
template <class Lane, int kTables>
void add_tables(const char* __restrict tables, const uint8_t* index, int64_t group_stride,
                int64_t rows, char* __restrict sums) {
  constexpr int vectors = kTileBytes / kVectorBytes;
  for (int64_t row = 0; row < rows; ++row) {
    Vector<Lane> sum[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[v] = load<Lane>(sums + row * kTileBytes + v * kVectorBytes);
#pragma GCC unroll 16
    for (int table = 0; table < kTables; ++table) {
      const char* entry = tables + table * (kTableEntries * kTileBytes) +
                          size_t{index[table * group_stride + row]} * kTileBytes;
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        sum[v] += load<Lane>(entry + v * kVectorBytes);
        __asm__ volatile("" : "+x"(sum[v]));
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store<Lane>(sums + row * kTileBytes + v * kVectorBytes, sum[v]);
  }
}

template <class From, class To>
void flush(char* from, char* to, int64_t count) {
  From* narrow = reinterpret_cast<From*>(from);
  To* wide = reinterpret_cast<To*>(to);
  for (int64_t i = 0; i < count; ++i) wide[i] = static_cast<To>(wide[i] + narrow[i]);
  __builtin_memset(from, 0, count * sizeof(From));
}

template <class Wide>
void flush_to_output(const GramBlock& block, const GramTile& tile, int lanes) {
  const int64_t channels = block.params->channels;
  const int64_t live =
      channels - tile.first_column < lanes ? channels - tile.first_column : lanes;
  const int64_t rows = tile.last_row - tile.first_row;
  Wide* wide = reinterpret_cast<Wide*>(tile.wide_sums);
  for (int64_t row = 0; row < rows; ++row) {
    int64_t* out = block.region->out + (tile.first_row + row) * channels + tile.first_column;
    for (int64_t lane = 0; lane < live; ++lane) out[lane] += wide[row * lanes + lane];
  }
  __builtin_memset(wide, 0, rows * lanes * sizeof(Wide));
}

template <class Lane>
void run_tile_lanes(const GramBlock& block, const GramTile& tile) {
  typedef typename Wider<Lane>::type Wide;
  constexpr int lanes = kTileBytes / sizeof(Lane);
  const GramParams& params = *block.params;
  const int64_t rows = tile.last_row - tile.first_row;
  const int64_t pass_bound = kPassSamples * params.max_term;
  const int64_t passes_per_flush = Wider<Lane>::max / pass_bound;
  const int64_t flushes_per_output = Wider<Lane>::wide_max / (pass_bound * passes_per_flush);
  int64_t passes = 0, flushes = 0;

  filter_values<Lane>(block, tile);
  __builtin_memset(tile.sums, 0, rows * kTileBytes);
  __builtin_memset(tile.wide_sums, 0, rows * lanes * sizeof(Wide));
  for (int plane = 0; plane < params.planes; ++plane) {
    const bool negative = params.is_signed && plane == params.planes - 1;
    if (plane > 0 || negative) {
      scale_values<Lane>(block, tile, static_cast<Lane>((plane > 0 ? 2 : 1) * (negative ? -1 : 1)));
    }
    const uint8_t* index = block.index + plane * block.num_groups * block.index_stride + tile.first_row;
    for (int64_t group = 0; group < block.num_groups;) {
      const int64_t left = block.num_groups - group;
      const int tables = left < kGroupsPerPass ? static_cast<int>(left) : kGroupsPerPass;
      for (int table = 0; table < tables; ++table) {
        build_table<Lane>(tile.values + (group + table) * kGroupSamples * kTileBytes,
                          tile.tables + table * kTableEntries * kTileBytes);
      }
      const uint8_t* at = index + group * block.index_stride;
      if (tables == kGroupsPerPass) {
        add_tables<Lane, kGroupsPerPass>(tile.tables, at, block.index_stride, rows, tile.sums);
      } else {
        for (int table = 0; table < tables; ++table) {
          add_tables<Lane, 1>(tile.tables + table * kTableEntries * kTileBytes,
                              at + table * block.index_stride, block.index_stride, rows, tile.sums);
        }
      }
      group += tables;
      if (++passes == passes_per_flush) {
        flush<Lane, Wide>(tile.sums, tile.wide_sums, rows * lanes);
        passes = 0;
        if (++flushes == flushes_per_output) {
          flush_to_output<Wide>(block, tile, lanes);
          flushes = 0;
        }
      }
    }
  }
  flush<Lane, Wide>(tile.sums, tile.wide_sums, rows * lanes);
  flush_to_output<Wide>(block, tile, lanes);
}

// to[c] gathers the bit under `mask` of six rows, the first one lowest.
void pack_bits(const int8_t* const* rows, uint8_t mask, int64_t channels, uint8_t* __restrict to) {
  typedef Vector<uint8_t> Bytes;
  const Bytes masks = Bytes{} + mask, one = Bytes{} + uint8_t{1};
  int64_t c = 0;
  for (; c + kVectorBytes <= channels; c += kVectorBytes) {
    Bytes bits{};
#pragma GCC unroll 6
    for (int bit = kGroupSamples - 1; bit >= 0; --bit) {
      const Bytes masked = load<uint8_t>(rows[bit] + c) & masks;
      bits += bits + (masked < one ? masked : one);
    }
    store<uint8_t>(to + c, bits);
  }
  for (; c < channels; ++c) {
    uint8_t bits = 0;
    for (int bit = kGroupSamples - 1; bit >= 0; --bit) {
      bits = static_cast<uint8_t>(bits + bits + ((rows[bit][c] & mask) != 0));
    }
    to[c] = bits;
  }
}

}  // namespace

// index[plane, group, shift * channels + c] holds bit `plane` of x[c] of the group's six samples.
void build_index(const GramBlock& block, int64_t first, int64_t last) {
  const GramParams& params = *block.params;
  for (int64_t group = first; group < last; ++group) {
    Sample samples[kGroupSamples];
    const int64_t start = group * kGroupSamples;
    const int live = static_cast<int>(
        block.num_samples - start < kGroupSamples ? block.num_samples - start : kGroupSamples);
    for (int bit = 0; bit < live; ++bit) samples[bit] = locate(block, start + bit);
    for (int64_t shift = 0; shift < block.region->num_shifts; ++shift) {
      const int32_t* neighbours = block.region->neighbours + shift * params.P;
      const int8_t* rows[kGroupSamples];
      for (int bit = 0; bit < kGroupSamples; ++bit) {
        const int32_t to = bit < live ? neighbours[samples[bit].position] : -1;
        rows[bit] = to < 0 ? block.zero_row
                           : spike_row(params, samples[bit].time, samples[bit].image, to);
      }
      for (int plane = 0; plane < params.planes; ++plane) {
        uint8_t* to = block.index + (plane * block.num_groups + group) * block.index_stride +
                      shift * params.channels;
        pack_bits(rows, static_cast<uint8_t>(1 << plane), params.channels, to);
      }
    }
  }
}

void run_tile(const GramBlock& block, const GramTile& tile) {
  switch (block.params->lane_bytes) {
    case 1: return run_tile_lanes<uint8_t>(block, tile);
    case 2: return run_tile_lanes<int16_t>(block, tile);
    case 4: return run_tile_lanes<int32_t>(block, tile);
    default: return run_tile_lanes<int64_t>(block, tile);
  }
}

}  // namespace SBC_ISA
}  // namespace sbc
