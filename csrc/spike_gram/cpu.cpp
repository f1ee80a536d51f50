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

// locate(place * T) for one place after the other, without the divisions.
class Places {
 public:
  explicit Places(const GramBlock& block) : region_(block.region), image_(block.first_image) {}
  int64_t image() const { return image_; }
  int64_t position() const { return region_->positions[at_]; }
  void next() {
    if (++at_ == region_->num_positions) at_ = 0, ++image_;
  }

 private:
  const GramRegion* region_;
  int64_t image_, at_ = 0;
};

inline const int8_t* spike_row(const GramParams& params, int64_t time, int64_t image,
                               int64_t position) {
  return params.spikes + ((time * params.N + image) * params.P + position) * params.C +
         params.first_channel;
}

// A tile reads 64 bytes of each row: too little for the hardware to see what comes next.
constexpr int kPrefetchPlaces = 16;

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

// Two binary columns in a byte; sums are bytes again.
struct NibblePair {};

template <class Lane>
struct Shape {
  typedef Lane Sum;
  static constexpr int columns = kTileBytes / sizeof(Lane), group_samples = 6, pass_groups = 6;
};
template <>
struct Shape<NibblePair> {
  typedef uint8_t Sum;
  static constexpr int columns = 2 * kTileBytes, group_samples = 5, pass_groups = 12;
};
template <class Lane>
constexpr int64_t kTableBytes = int64_t{kTileBytes} << Shape<Lane>::group_samples;

inline int64_t live_columns(const GramBlock& block, const GramTile& tile, int columns) {
  const int64_t left = block.params->channels - tile.first_column;
  return left < columns ? left : columns;
}

// Z = K X for one tile of columns, every sample of the block; Lane x Lane, time by time.
template <class Lane>
void filter_values(const GramBlock& block, const GramTile& tile, Lane* values) {
  const GramParams& params = *block.params;
  constexpr int lanes = Shape<Lane>::columns;
  const int64_t T = params.T, live = live_columns(block, tile, lanes);
  Places place(block), ahead(block);
  for (int i = 0; i < kPrefetchPlaces; ++i) ahead.next();
  for (int64_t first = 0; first < block.num_samples; first += T, place.next(), ahead.next()) {
    Lane* rows = values + first * lanes;
    for (int64_t source = 0; source < T; ++source) {
      int8_t spikes[lanes] = {};
      const int8_t* from =
          spike_row(params, source, place.image(), place.position()) + tile.first_column;
      __builtin_prefetch(spike_row(params, source, ahead.image(), ahead.position()) +
                         tile.first_column);
      if (live == lanes) {
        __builtin_memcpy(spikes, from, lanes);
      } else {
        __builtin_memcpy(spikes, from, live);
      }
      for (int64_t time = 0; time < T; ++time) {
        const Lane weight = static_cast<Lane>(params.matched_filter[time * T + source]);
        Lane* row = rows + time * lanes;
        for (int lane = 0; lane < lanes; ++lane) {
          const Lane before = source == 0 ? Lane(0) : row[lane];
          row[lane] = static_cast<Lane>(before + weight * spikes[lane]);
        }
      }
    }
  }
}

// Columns c and c + 64 of the tile in one byte.
void pair_values(const GramBlock& block, const GramTile& tile, uint8_t* values) {
  const GramParams& params = *block.params;
  const int64_t live = live_columns(block, tile, 128);
  Places place(block), ahead(block);
  for (int i = 0; i < kPrefetchPlaces; ++i) ahead.next();
  for (int64_t sample = 0; sample < block.num_samples; ++sample, place.next(), ahead.next()) {
    const int8_t* from = spike_row(params, 0, place.image(), place.position()) + tile.first_column;
    const int8_t* next = spike_row(params, 0, ahead.image(), ahead.position()) + tile.first_column;
    __builtin_prefetch(next);
    __builtin_prefetch(next + 64);
    int8_t spikes[128];
    if (live < 128) {
      __builtin_memset(spikes, 0, sizeof(spikes));
      __builtin_memcpy(spikes, from, live);
      from = spikes;
    }
    uint8_t* row = values + sample * kTileBytes;
    for (int c = 0; c < kTileBytes; ++c) {
      row[c] = static_cast<uint8_t>(from[c] + 16 * from[c + kTileBytes]);
    }
  }
}

template <class Lane>
void fill_values(const GramBlock& block, const GramTile& tile) {
  const int64_t all = block.num_groups * Shape<Lane>::group_samples;
  __builtin_memset(tile.values + block.num_samples * kTileBytes, 0,
                   (all - block.num_samples) * kTileBytes);
  if constexpr (Shape<Lane>::columns > kTileBytes) {
    pair_values(block, tile, reinterpret_cast<uint8_t*>(tile.values));
  } else {
    filter_values<Lane>(block, tile, reinterpret_cast<Lane*>(tile.values));
  }
}

// All subset sums of a group's rows of Z, by doubling: one add and one store an entry.
template <class Lane>
void build_table(const char* values, char* table) {
  typedef typename Shape<Lane>::Sum Sum;
#pragma GCC unroll 4
  for (int v = 0; v < kTileBytes; v += kVectorBytes) {
    store<Sum>(table + v, Vector<Sum>{});
#pragma GCC unroll 6
    for (int bit = 0; bit < Shape<Lane>::group_samples; ++bit) {
      const Vector<Sum> value = load<Sum>(values + bit * kTileBytes + v);
#pragma GCC unroll 4
      for (int entry = 0; entry < 1 << bit; ++entry) {
        store<Sum>(table + (entry + (1 << bit)) * kTileBytes + v,
                   load<Sum>(table + entry * kTileBytes + v) + value);
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
// table one index load, one shift and two (AVX2) loads fused with adds. Index rows of three tables
// are addressed from one pointer, which keeps all pointers in registers.
template <class Lane>
void add_tables(const char* __restrict tables, const uint8_t* index, int64_t stride, int64_t rows,
                char* __restrict sums) {
  constexpr int vectors = kTileBytes / kVectorBytes, triples = Shape<Lane>::pass_groups / 3;
  const uint8_t* at[triples];
  for (int t = 0; t < triples; ++t) at[t] = index + 3 * t * stride;
  for (int64_t row = 0; row < rows; ++row, sums += kTileBytes) {
    Vector<Lane> sum[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[v] = load<Lane>(sums + v * kVectorBytes);
#pragma GCC unroll 4
    for (int t = 0; t < triples; ++t, ++at[t - 1]) {
      const char* table = tables + 3 * t * kTableBytes<Lane>;
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i, table += kTableBytes<Lane>) {
        const char* entry = table + size_t{at[t][i * stride]} * kTileBytes;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[v] += load<Lane>(entry + v * kVectorBytes);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store<Lane>(sums + v * kVectorBytes, sum[v]);
  }
}

// The same for pairs: three tables reach at most 15 in a nibble, then the nibbles part.
template <>
void add_tables<NibblePair>(const char* __restrict tables, const uint8_t* index, int64_t stride,
                            int64_t rows, char* __restrict sums) {
  typedef Vector<uint8_t> Bytes;
  typedef Vector<uint16_t> Words;
  constexpr int vectors = kTileBytes / kVectorBytes, triples = Shape<NibblePair>::pass_groups / 3;
  const Bytes low = Bytes{} + uint8_t{15};
  const uint8_t* at[triples];
  for (int t = 0; t < triples; ++t) at[t] = index + 3 * t * stride;
  for (int64_t row = 0; row < rows; ++row, sums += 2 * kTileBytes) {
    Bytes sum[2 * vectors];
#pragma GCC unroll 8
    for (int v = 0; v < 2 * vectors; ++v) sum[v] = load<uint8_t>(sums + v * kVectorBytes);
#pragma GCC unroll 4
    for (int t = 0; t < triples; ++t) {
      const char* table = tables + 3 * t * kTableBytes<NibblePair>;
      const char* first = table + size_t{at[t][0]} * kTileBytes;
      const char* second = table + kTableBytes<NibblePair> + size_t{at[t][stride]} * kTileBytes;
      const char* third = table + 2 * kTableBytes<NibblePair> + size_t{at[t][2 * stride]} * kTileBytes;
      ++at[t];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        const Bytes pairs = load<uint8_t>(first + v * kVectorBytes) +
                            load<uint8_t>(second + v * kVectorBytes) +
                            load<uint8_t>(third + v * kVectorBytes);
        sum[v] += pairs & low;
        sum[vectors + v] += reinterpret_cast<Bytes>(reinterpret_cast<Words>(pairs) >> 4) & low;
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < 2 * vectors; ++v) store<uint8_t>(sums + v * kVectorBytes, sum[v]);
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
void flush_to_output(const GramBlock& block, const GramTile& tile, int columns) {
  const int64_t channels = block.params->channels, live = live_columns(block, tile, columns);
  const int64_t rows = tile.last_row - tile.first_row;
  Wide* wide = reinterpret_cast<Wide*>(tile.wide_sums);
  for (int64_t row = 0; row < rows; ++row) {
    double* out = block.region->out + (tile.first_row + row) * channels + tile.first_column;
    for (int64_t c = 0; c < live; ++c) out[c] += static_cast<double>(wide[row * columns + c]);
  }
  __builtin_memset(wide, 0, rows * columns * sizeof(Wide));
}

template <class Lane>
void run_tile_lanes(const GramBlock& block, const GramTile& tile) {
  typedef Shape<Lane> S;
  typedef typename S::Sum Sum;
  typedef typename Wider<Sum>::type Wide;
  const GramParams& params = *block.params;
  const int64_t rows = tile.last_row - tile.first_row, cells = rows * S::columns;
  const int64_t pass_bound = S::pass_groups * S::group_samples * params.max_term;
  const int64_t passes_per_flush = Wider<Sum>::max / pass_bound;
  const int64_t flushes_per_output = Wider<Sum>::wide_max / (pass_bound * passes_per_flush);
  int64_t passes = 0, flushes = 0;

  fill_values<Lane>(block, tile);
  __builtin_memset(tile.sums, 0, cells * sizeof(Sum));
  __builtin_memset(tile.wide_sums, 0, cells * sizeof(Wide));
  for (int plane = 0; plane < params.planes; ++plane) {
    const bool negative = params.is_signed && plane == params.planes - 1;
    if constexpr (S::columns <= kTileBytes) {
      if (plane > 0 || negative) {
        scale_values<Sum>(block, tile, static_cast<Sum>((plane > 0 ? 2 : 1) * (negative ? -1 : 1)));
      }
    }
    const uint8_t* index =
        block.index + plane * block.num_groups * block.index_stride + tile.first_row;
    for (int64_t group = 0; group < block.num_groups; group += S::pass_groups) {
      for (int table = 0; table < S::pass_groups; ++table) {
        build_table<Lane>(tile.values + (group + table) * S::group_samples * kTileBytes,
                          tile.tables + table * kTableBytes<Lane>);
      }
      add_tables<Lane>(tile.tables, index + group * block.index_stride, block.index_stride, rows,
                       tile.sums);
      if (++passes == passes_per_flush) {
        flush<Sum, Wide>(tile.sums, tile.wide_sums, cells);
        passes = 0;
        if (++flushes == flushes_per_output) {
          flush_to_output<Wide>(block, tile, S::columns);
          flushes = 0;
        }
      }
    }
  }
  flush<Sum, Wide>(tile.sums, tile.wide_sums, cells);
  flush_to_output<Wide>(block, tile, S::columns);
}

// to[c] gathers the bit under `mask` of kSamples rows, the first one lowest.
template <int kSamples>
void pack_bits(const int8_t* const* rows, uint8_t mask, int64_t channels, uint8_t* __restrict to) {
  typedef Vector<uint8_t> Bytes;
  const Bytes masks = Bytes{} + mask, one = Bytes{} + uint8_t{1};
  int64_t c = 0;
  for (; c + kVectorBytes <= channels; c += kVectorBytes) {
    Bytes bits{};
#pragma GCC unroll 6
    for (int bit = kSamples - 1; bit >= 0; --bit) {
      const Bytes masked = load<uint8_t>(rows[bit] + c) & masks;
      bits += bits + (masked < one ? masked : one);
    }
    store<uint8_t>(to + c, bits);
  }
  for (; c < channels; ++c) {
    uint8_t bits = 0;
    for (int bit = kSamples - 1; bit >= 0; --bit) {
      bits = static_cast<uint8_t>(bits + bits + ((rows[bit][c] & mask) != 0));
    }
    to[c] = bits;
  }
}

template <int kSamples>
void build_index_groups(const GramBlock& block, int64_t first, int64_t last) {
  const GramParams& params = *block.params;
  for (int64_t group = first; group < last; ++group) {
    Sample samples[kSamples];
    const int64_t start = group * kSamples, left = block.num_samples - start;
    const int live = static_cast<int>(left < 0 ? 0 : left < kSamples ? left : kSamples);
    for (int bit = 0; bit < live; ++bit) samples[bit] = locate(block, start + bit);
    for (int64_t shift = 0; shift < block.region->num_shifts; ++shift) {
      const int32_t* neighbours = block.region->neighbours + shift * params.P;
      const int8_t* rows[kSamples];
      for (int bit = 0; bit < kSamples; ++bit) {
        const int32_t to = bit < live ? neighbours[samples[bit].position] : -1;
        rows[bit] = to < 0 ? block.zero_row
                           : spike_row(params, samples[bit].time, samples[bit].image, to);
      }
      for (int plane = 0; plane < params.planes; ++plane) {
        uint8_t* to = block.index + (plane * block.num_groups + group) * block.index_stride +
                      shift * params.channels;
        pack_bits<kSamples>(rows, static_cast<uint8_t>(1 << plane), params.channels, to);
      }
    }
  }
}

}  // namespace

// index[plane, group, shift * channels + c] holds bit `plane` of x[c] of the group's samples.
void build_index(const GramBlock& block, int64_t first, int64_t last) {
  if (is_binary(*block.params)) return build_index_groups<5>(block, first, last);
  build_index_groups<6>(block, first, last);
}

void run_tile(const GramBlock& block, const GramTile& tile) {
  if (is_binary(*block.params)) return run_tile_lanes<NibblePair>(block, tile);
  switch (block.params->lane_bytes) {
    case 1: return run_tile_lanes<uint8_t>(block, tile);
    case 2: return run_tile_lanes<int16_t>(block, tile);
    case 4: return run_tile_lanes<int32_t>(block, tile);
    default: return run_tile_lanes<int64_t>(block, tile);
  }
}

}  // namespace SBC_ISA
}  // namespace sbc
