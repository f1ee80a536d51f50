#include "spike_gram/tables_cpu.h"

#include "spike_gram/pack_bits.h"

namespace sbc {
namespace SBC_ISA {
namespace {

// Image and position of one place after the other, without the divisions.
class Places {
 public:
  explicit Places(const TablesBlock& block) : region_(block.region), image_(block.first_image) {}
  int64_t image() const { return image_; }
  int64_t position() const { return region_->positions[at_]; }
  void next() {
    if (++at_ == region_->num_positions) at_ = 0, ++image_;
  }

 private:
  const GramRegion* region_;
  int64_t image_, at_ = 0;
};

inline const int8_t* spike_row(const GramInput& params, int64_t time, int64_t image,
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
constexpr int kPassSamples = Shape<Lane>::group_samples * Shape<Lane>::pass_groups;
template <class Lane>
constexpr int64_t kTableBytes = int64_t{kTileBytes} << Shape<Lane>::group_samples;

inline int64_t live_columns(const TablesBlock& block, const TablesTile& tile, int columns) {
  const int64_t left = block.params->channels - tile.first_column;
  return left < columns ? left : columns;
}

// Z = K X for one tile of columns, every sample of the block; Lane x Lane, time by time.
template <class Lane>
void filter_values(const TablesParams& params, const TablesBlock& block, const TablesTile& tile,
                   Lane* values) {
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

// Columns c and c + 64 of the tile in one byte, at one time step.
void pair_values(const TablesBlock& block, const TablesTile& tile, int64_t time, uint8_t* values) {
  const GramInput& params = *block.params;
  const int64_t live = live_columns(block, tile, 128);
  Places place(block), ahead(block);
  for (int i = 0; i < kPrefetchPlaces; ++i) ahead.next();
  for (int64_t sample = 0; sample < block.num_samples; ++sample, place.next(), ahead.next()) {
    const int8_t* from =
        spike_row(params, time, place.image(), place.position()) + tile.first_column;
    const int8_t* next =
        spike_row(params, time, ahead.image(), ahead.position()) + tile.first_column;
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

// Z times what the next bit plane of X weighs beside the last one: 2, -2 or -1.
template <class Lane>
void scale_values(const TablesBlock& block, const TablesTile& tile, Lane factor) {
  Lane* values = reinterpret_cast<Lane*>(tile.values);
  const int64_t count = block.num_samples * (kTileBytes / sizeof(Lane));
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<Lane>(values[i] * factor);
}

// Where in a table the word's bits of one group point to, in bytes.
template <class Lane>
inline size_t entry_offset(uint64_t word, int group) {
  constexpr int samples = Shape<Lane>::group_samples, line = 6;  // 2^6 = kTileBytes
  constexpr uint64_t mask = ((uint64_t{1} << samples) - 1) << line;
  const int shift = group * samples - line;
  return (shift < 0 ? word << -shift : word >> shift) & mask;
}

// sums[row] += the table rows that the row's word names. This is where the time goes: for AVX2, a
// word, two loads a table and two loads and stores of sums a row.
template <class Lane>
void add_tables(const char* __restrict tables, const uint64_t* words, int64_t rows,
                char* __restrict sums) {
  constexpr int vectors = kTileBytes / kVectorBytes;
  for (int64_t row = 0; row < rows; ++row, sums += kTileBytes) {
    const uint64_t word = words[row];
    Vector<Lane> sum[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[v] = load<Lane>(sums + v * kVectorBytes);
#pragma GCC unroll 12
    for (int group = 0; group < Shape<Lane>::pass_groups; ++group) {
      const char* entry = tables + group * kTableBytes<Lane> + entry_offset<Lane>(word, group);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[v] += load<Lane>(entry + v * kVectorBytes);
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store<Lane>(sums + v * kVectorBytes, sum[v]);
  }
}

// The same for pairs: three tables reach at most 15 in a nibble, then the nibbles part.
template <>
void add_tables<NibblePair>(const char* __restrict tables, const uint64_t* words, int64_t rows,
                            char* __restrict sums) {
  typedef Vector<uint8_t> Bytes;
  typedef Vector<uint16_t> Words;
  constexpr int vectors = kTileBytes / kVectorBytes;
  const Bytes low = Bytes{} + uint8_t{15};
  for (int64_t row = 0; row < rows; ++row, sums += 2 * kTileBytes) {
    const uint64_t word = words[row];
    Bytes sum[2 * vectors];
#pragma GCC unroll 8
    for (int v = 0; v < 2 * vectors; ++v) sum[v] = load<uint8_t>(sums + v * kVectorBytes);
#pragma GCC unroll 4
    for (int group = 0; group < Shape<NibblePair>::pass_groups; group += 3) {
      const char* entries[3];
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {
        entries[i] = tables + (group + i) * kTableBytes<NibblePair> +
                     entry_offset<NibblePair>(word, group + i);
      }
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        const Bytes pairs = load<uint8_t>(entries[0] + v * kVectorBytes) +
                            load<uint8_t>(entries[1] + v * kVectorBytes) +
                            load<uint8_t>(entries[2] + v * kVectorBytes);
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
void flush_to_output(const TablesBlock& block, const TablesTile& tile, const Wide* sums,
                     int columns, double weight = 1.0) {
  const int64_t channels = block.params->channels, live = live_columns(block, tile, columns);
  for (int64_t row = tile.first_row; row < tile.last_row; ++row, sums += columns) {
    double* out = block.region->out + row * channels + tile.first_column;
    for (int64_t c = 0; c < live; ++c) out[c] += weight * static_cast<double>(sums[c]);
  }
}

// A tile's sums on their way: first sums, flushed into wide ones before they could overflow,
// flushed by `drain` in their turn.
template <class Lane, class Drain>
class Passes {
 public:
  typedef Shape<Lane> S;
  typedef typename S::Sum Sum;
  typedef typename Wider<Sum>::type Wide;

  Passes(const TablesTile& tile, int64_t max_term, Drain drain) : tile_(tile), drain_(drain) {
    const int64_t bound = kPassSamples<Lane> * max_term;
    passes_per_flush_ = Wider<Sum>::max / bound;
    flushes_per_drain_ = Wider<Sum>::wide_max / (bound * passes_per_flush_);
    __builtin_memset(tile.sums, 0, cells() * sizeof(Sum));
    __builtin_memset(tile.wide_sums, 0, cells() * sizeof(Wide));
  }

  // All samples of one layer: tables of `values`, looked up by `words` [num_passes, all_rows].
  void add(const TablesBlock& block, const char* values, const uint64_t* words) {
    const int64_t all_rows = block.region->num_shifts * block.params->channels;
    words += tile_.first_row;
    for (int64_t pass = 0; pass < block.num_passes; ++pass, words += all_rows) {
      for (int group = 0; group < S::pass_groups; ++group) {
        build_table<Lane>(values, tile_.tables + group * kTableBytes<Lane>);
        values += S::group_samples * kTileBytes;
      }
      add_tables<Lane>(tile_.tables, words, rows(), tile_.sums);
      if (++passes_ == passes_per_flush_) flush_sums();
    }
  }

  void finish() {
    flush_sums();
    flush_wide();
  }

 private:
  int64_t rows() const { return tile_.last_row - tile_.first_row; }
  int64_t cells() const { return rows() * S::columns; }
  void flush_sums() {
    flush<Sum, Wide>(tile_.sums, tile_.wide_sums, cells());
    passes_ = 0;
    if (++flushes_ == flushes_per_drain_) flush_wide();
  }
  void flush_wide() {
    drain_(reinterpret_cast<Wide*>(tile_.wide_sums), cells());
    __builtin_memset(tile_.wide_sums, 0, cells() * sizeof(Wide));
    flushes_ = 0;
  }

  const TablesTile& tile_;
  const Drain drain_;
  int64_t passes_per_flush_, flushes_per_drain_;
  int64_t passes_ = 0, flushes_ = 0;
};

template <class Lane>
void clear_silence(const TablesBlock& block, char* values) {
  const int64_t all = block.num_passes * kPassSamples<Lane>;
  __builtin_memset(values + block.num_samples * kTileBytes, 0,
                   (all - block.num_samples) * kTileBytes);
}

template <class Lane>
void run_lanes(const TablesParams& params, const TablesBlock& block, const TablesTile& tile) {
  typedef typename Wider<Lane>::type Wide;
  const int64_t layer = block.num_passes * block.region->num_shifts * params.channels;
  const auto drain = [&](const Wide* wide, int64_t) {
    flush_to_output(block, tile, wide, Shape<Lane>::columns);
  };
  clear_silence<Lane>(block, tile.values);
  filter_values<Lane>(params, block, tile, reinterpret_cast<Lane*>(tile.values));
  Passes<Lane, decltype(drain)> passes(tile, params.max_term, drain);
  for (int plane = 0; plane < params.planes; ++plane) {
    const bool negative = params.is_signed && plane == params.planes - 1;
    if (plane > 0 || negative) {
      scale_values<Lane>(block, tile, static_cast<Lane>((plane > 0 ? 2 : 1) * (negative ? -1 : 1)));
    }
    passes.add(block, tile.values, block.index + plane * layer);
  }
  passes.finish();
}

}  // namespace

void build_index(const TablesBlock& block, int64_t first, int64_t last) {
  const GramInput& params = *block.params;
  const TablesShape& shape = *block.shape;
  const GramRegion& region = *block.region;
  const int64_t all_rows = region.num_shifts * params.channels;
  const int64_t pass_samples = shape.pass_samples, times = shape.place_samples;
  for (int64_t slot = first; slot < last; ++slot) {  // layer * num_passes + pass
    const int64_t layer = slot / block.num_passes, pass = slot % block.num_passes;
    const int64_t start = pass * pass_samples, left = block.num_samples - start;
    const int live = static_cast<int>(left < pass_samples ? left : pass_samples);
    int64_t image[64], position[64], time[64];
    for (int bit = 0; bit < live; ++bit) {
      const int64_t place = (start + bit) / times;
      image[bit] = block.first_image + place / region.num_positions;
      position[bit] = region.positions[place % region.num_positions];
      time[bit] = layer + (start + bit) % times;  // one of the two is 0
    }
    for (int64_t shift = 0; shift < region.num_shifts; ++shift) {
      const int32_t* neighbours = region.neighbours + shift * params.P;
      const int8_t* rows[64];
      for (int bit = 0; bit < 64; ++bit) {
        const int32_t to = bit < live ? neighbours[position[bit]] : -1;
        rows[bit] = to < 0 ? block.zero_row : spike_row(params, time[bit], image[bit], to);
      }
      uint64_t* to = block.index + slot * all_rows + shift * params.channels;
      for (int64_t plane = 0; plane < shape.planes; ++plane) {
        pack_words(rows, static_cast<uint8_t>(1 << plane), params.channels,
                   to + plane * block.num_passes * all_rows);
      }
    }
  }
}

void run_tables(const TablesParams& params, const TablesBlock& block, const TablesTile& tile) {
  switch (params.lane_bytes) {
    case 1: return run_lanes<uint8_t>(params, block, tile);
    case 2: return run_lanes<int16_t>(params, block, tile);
    case 4: return run_lanes<int32_t>(params, block, tile);
    default: return run_lanes<int64_t>(params, block, tile);
  }
}

// sum over t <= u of K[t, u] (X_u' Z_t + X_t' Z_u), once where t = u. The weighted total of the
// tile stays in second-level cache over all pairs.
void run_pair_tables(const PairTablesParams& params, const TablesBlock& block,
                     const TablesTile& tile) {
  const int64_t T = params.T, cells = (tile.last_row - tile.first_row) * 128;
  const int64_t layer = block.num_passes * block.region->num_shifts * params.channels;
  const int64_t values_bytes = block.num_passes * kPassSamples<NibblePair> * kTileBytes;
  for (int64_t time = 0; time < T; ++time) {
    char* values = tile.values + time * values_bytes;
    clear_silence<NibblePair>(block, values);
    pair_values(block, tile, time, reinterpret_cast<uint8_t*>(values));
  }
  double* total = reinterpret_cast<double*>(tile.total);
  __builtin_memset(total, 0, T > 1 ? cells * sizeof(double) : 0);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t u = t; u < T; ++u) {
      const double weight = params.pair_weights[t * T + u];
      if (weight == 0.0) continue;
      const auto drain = [&](const uint16_t* wide, int64_t count) {
        if (T == 1) return flush_to_output(block, tile, wide, 128, weight);
        for (int64_t i = 0; i < count; ++i) total[i] += weight * static_cast<double>(wide[i]);
      };
      Passes<NibblePair, decltype(drain)> passes(tile, 1, drain);
      passes.add(block, tile.values + t * values_bytes, block.index + u * layer);
      if (t != u) passes.add(block, tile.values + u * values_bytes, block.index + t * layer);
      passes.finish();
    }
  }
  if (T > 1) flush_to_output(block, tile, total, 128);
}

}  // namespace SBC_ISA
}  // namespace sbc
