#include "spike_gram/spike_gram.h"

#include <type_traits>

#include "common/aligned.h"
#include "common/integers.h"
#include "common/threads.h"
#include "spike_gram/cpu.h"

namespace sbc {
namespace {

constexpr int64_t kIndexBytes = 8 << 20;  // of one block's index, to stay in a third-level cache
constexpr int64_t kMaxBlockSamples = 16384;
constexpr int64_t kMaxTaskRows =
    1280;  // up to 384 bytes of sums a row: 480 KiB of second-level cache
constexpr int64_t kMaxPairTaskRows = 320;  // 1408 bytes of sums and total a row, likewise
constexpr int64_t kMinTaskRows = 256;      // below this the 64 table entries a pass begin to show

struct Scratch {
  AlignedArray<char> values, tables, sums, wide_sums, total;
};

struct Task {
  int64_t first_column, first_row, last_row;
};

// Tiles of Z columns times ranges of X rows. The triangle's longest tiles come first.
std::vector<Task> plan_tasks(const GramParams& params, const GramRegion& region, int threads) {
  const int64_t columns = gram_shape(params).columns;
  const int64_t tiles = ceil_div(params.channels, columns);
  const int64_t all_rows = region.num_shifts * params.channels;
  const int64_t wanted_splits = ceil_div(threads > 1 ? 4 * threads : 1, tiles);
  const int64_t task_rows =
      std::min(by_pairs(params) && params.T > 1 ? kMaxPairTaskRows : kMaxTaskRows,
               std::max(kMinTaskRows, ceil_div(all_rows, wanted_splits)));
  std::vector<Task> tasks;
  for (int64_t tile = tiles - 1; tile >= 0; --tile) {
    const int64_t rows = params.triangle ? std::min(all_rows, (tile + 1) * columns) : all_rows;
    const int64_t splits = ceil_div(rows, task_rows);
    for (int64_t split = 0; split < splits; ++split) {
      tasks.push_back({tile * columns, rows * split / splits, rows * (split + 1) / splits});
    }
  }
  return tasks;
}

struct Kernels {
  decltype(&portable::build_index) build_index;
  decltype(&portable::run_tile) run_tile;
};

// One region: for all images, block by block, first the index, then the tiles.
class RegionSum {
 public:
  RegionSum(const GramParams& params, const GramRegion& region, Kernels kernels, int threads)
      : params_(params),
        region_(region),
        kernels_(kernels),
        threads_(threads),
        shape_(gram_shape(params)),
        tasks_(plan_tasks(params, region, threads)),
        scratch_(threads),
        zero_row_(aligned_array<int8_t>(params.channels)) {
    std::fill_n(zero_row_.get(), params.channels, int8_t{0});
    const int64_t rows = region.num_shifts * params.channels;
    const int64_t layers = by_pairs(params) ? params.T : params.planes;
    image_samples_ = region.num_positions * (by_pairs(params) ? 1 : params.T);
    const int64_t block_samples = std::min(kMaxBlockSamples / (by_pairs(params) ? params.T : 1),
                                           kIndexBytes / (8 * layers * rows) * shape_.pass_samples);
    block_images_ = std::min(params.N, std::max<int64_t>(1, block_samples / image_samples_));
    const int64_t passes = ceil_div(block_images_ * image_samples_, shape_.pass_samples);
    int64_t max_rows = 0;
    for (const Task& task : tasks_) max_rows = std::max(max_rows, task.last_row - task.first_row);
    index_ = aligned_array<uint64_t>(layers * passes * rows);
    for (Scratch& mine : scratch_) {
      mine.values = aligned_array<char>((by_pairs(params) ? params.T : 1) * passes *
                                        shape_.pass_samples * kTileBytes);
      mine.tables = aligned_array<char>(kTablesBytes);
      mine.sums = aligned_array<char>(max_rows * shape_.sum_bytes);
      mine.wide_sums = aligned_array<char>(max_rows * shape_.wide_bytes);
      mine.total = aligned_array<char>(max_rows * shape_.total_bytes);
    }
  }

  void run() {
    GramBlock block{};
    block.params = &params_;
    block.region = &region_;
    block.index = index_.get();
    block.zero_row = zero_row_.get();
    for (int64_t image = 0; image < params_.N; image += block_images_) {
      block.first_image = image;
      block.num_images = std::min(block_images_, params_.N - image);
      block.num_samples = block.num_images * image_samples_;
      block.num_passes = ceil_div(block.num_samples, shape_.pass_samples);
      const int64_t slots = block.num_passes * (by_pairs(params_) ? params_.T : 1);
      const int64_t slices = std::min<int64_t>(slots, 8 * threads_);
      parallel_for(slices, threads_, [&](int64_t slice, int) {
        kernels_.build_index(block, slots * slice / slices, slots * (slice + 1) / slices);
      });
      parallel_for(static_cast<int64_t>(tasks_.size()), threads_, [&](int64_t t, int worker) {
        const Scratch& mine = scratch_[worker];
        const GramTile tile{tasks_[t].first_column, tasks_[t].first_row, tasks_[t].last_row,
                            mine.values.get(),      mine.tables.get(),   mine.sums.get(),
                            mine.wide_sums.get(),   mine.total.get()};
        kernels_.run_tile(block, tile);
      });
    }
  }

 private:
  const GramParams& params_;
  const GramRegion& region_;
  const Kernels kernels_;
  const int threads_;
  const GramShape shape_;
  const std::vector<Task> tasks_;
  std::vector<Scratch> scratch_;
  AlignedArray<int8_t> zero_row_;
  AlignedArray<uint64_t> index_;
  int64_t image_samples_ = 0, block_images_ = 0;
};

}  // namespace

bool by_counts(const GramParams& params, Isa isa) {
  return by_pairs(params) && params.triangle && params.num_regions == 1 && isa >= Isa::vpopcnt;
}

void spike_gram(const GramParams& params, Isa isa, int threads) {
  if (by_bytes(params)) return sum_bytes(params, isa, threads);
  if (by_counts(params, isa)) return sum_counts(params, isa, threads);
  const Kernels kernels{SBC_SELECT_ISA(isa, build_index), SBC_SELECT_ISA(isa, run_tile)};
  for (int64_t r = 0; r < params.num_regions; ++r) {
    RegionSum(params, params.regions[r], kernels, threads).run();
  }
}

void mirror_upper(double* matrix, int64_t d, double factor, int threads) {
  // Through a small copy with an odd stride: the rows of a matrix with d = 4608 all start in one
  // set of the first-level cache.
  constexpr int64_t kSide = 32;
  const int64_t blocks = ceil_div(d, kSide);
  parallel_for(blocks, threads, [&](int64_t block_row, int) {
    double copy[kSide * (kSide + 1)];
    const int64_t i0 = block_row * kSide, i1 = std::min(d, i0 + kSide);
    for (int64_t j0 = i0; j0 < d; j0 += kSide) {
      const int64_t j1 = std::min(d, j0 + kSide);
      for (int64_t i = i0; i < i1; ++i) {
        for (int64_t j = std::max(i, j0); j < j1; ++j) {
          copy[(i - i0) * (kSide + 1) + j - j0] = matrix[i * d + j] *= factor;
        }
      }
      for (int64_t j = j0; j < j1; ++j) {
        for (int64_t i = i0; i < std::min(i1, j); ++i) {
          matrix[j * d + i] = copy[(i - i0) * (kSide + 1) + j - j0];
        }
      }
    }
  });
}

void assemble_conv(const ConvRegion* regions, int64_t num_regions, int64_t channels, int64_t taps,
                   double factor, double* matrix, int threads) {
  // Eight channels at once: what is read down the columns of the sums comes in whole cache lines.
  constexpr int64_t kGroup = 8;
  const int64_t d = channels * taps;
  parallel_for(ceil_div(channels, kGroup), threads, [&](int64_t group, int) {
    const int64_t first = group * kGroup, last = std::min(channels, first + kGroup);
    std::fill(matrix + first * taps * d, matrix + last * taps * d, 0.0);
    const auto at = [&](int64_t row, int64_t row_tap, int64_t column,
                        int64_t column_tap) -> double& {
      return matrix[(row * taps + row_tap) * d + column * taps + column_tap];
    };
    for (int64_t r = 0; r < num_regions; ++r) {
      for (int64_t block = 0; block < regions[r].num_blocks; ++block) {
        const int32_t* which = regions[r].blocks + 3 * block;
        const double* sums = regions[r].sums + which[0] * channels * channels;
        const int64_t a = which[1], b = which[2];
        for (int64_t x = 0; x < channels; ++x) {
          const int64_t end = a == b ? std::max(first, std::min(last, x)) : first;
          for (int64_t z = first; z < end; ++z) at(z, a, x, b) += sums[z * channels + x];
          for (int64_t z = end; z < last; ++z) at(z, a, x, b) += sums[x * channels + z];
        }
        if (a == b) continue;
        for (int64_t x = first; x < last; ++x) {
          for (int64_t z = 0; z < channels; ++z) at(x, b, z, a) += sums[x * channels + z];
        }
      }
    }
    for (double* value = &at(first, 0, 0, 0); value < matrix + last * taps * d; ++value) {
      *value *= factor;
    }
  });
}

// 16 x 16 bytes: four perfect shuffles of the rows.
static void transpose_bytes(const int8_t* from, int64_t from_stride, int8_t* to,
                            int64_t to_stride) {
  typedef int8_t Row __attribute__((vector_size(16)));
  const Row low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  Row rows[2][16];
  for (int i = 0; i < 16; ++i) __builtin_memcpy(&rows[0][i], from + i * from_stride, 16);
  for (int round = 0; round < 4; ++round) {
    const Row* in = rows[round % 2];
    Row* out = rows[1 - round % 2];
    for (int i = 0; i < 8; ++i) {
      out[2 * i] = __builtin_shuffle(in[i], in[i + 8], low);
      out[2 * i + 1] = __builtin_shuffle(in[i], in[i + 8], low + 8);
    }
  }
  for (int i = 0; i < 16; ++i) __builtin_memcpy(to + i * to_stride, &rows[0][i], 16);
}

// [rows, columns] bytes to [columns, rows].
static void transpose_image(const int8_t* from, int64_t rows, int64_t columns, int8_t* to) {
  const int64_t whole_rows = rows / 16 * 16, whole_columns = columns / 16 * 16;
  for (int64_t r = 0; r < whole_rows; r += 16) {
    for (int64_t c = 0; c < whole_columns; c += 16) {
      transpose_bytes(from + r * columns + c, columns, to + c * rows + r, rows);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c) {
      to[c * rows + r] = from[r * columns + c];
    }
  }
}

template <class T>
NarrowResult narrow_spikes(const T* from, int64_t outer, int64_t C, int64_t P, int8_t* to,
                           int threads) {
  struct Range {
    T minimum = 0, maximum = 0;
    bool integral = true;
  };
  std::vector<Range> ranges(threads);
  const int64_t slices = std::min<int64_t>(std::max<int64_t>(outer, 1), 64);
  parallel_for(slices, threads, [&](int64_t slice, int worker) {
    Range range = ranges[worker];
    for (int64_t o = outer * slice / slices; o < outer * (slice + 1) / slices; ++o) {
      const T* image = from + o * C * P;
      int8_t* out = to + o * C * P;
      if (sizeof(T) == 1) {
        T minimum = 0, maximum = 0;
        for (int64_t i = 0; i < C * P; ++i) {
          minimum = image[i] < minimum ? image[i] : minimum;
          maximum = image[i] > maximum ? image[i] : maximum;
        }
        range.minimum = std::min(range.minimum, minimum);
        range.maximum = std::max(range.maximum, maximum);
        range.integral &= range.maximum <= T(127);
        transpose_image(reinterpret_cast<const int8_t*>(image), C, P, out);
        continue;
      }
      // 64 x 64 blocks: both sides of the transposition stay in the first-level cache.
      for (int64_t p0 = 0; p0 < P; p0 += 64) {
        const int64_t p1 = std::min(P, p0 + 64);
        for (int64_t c0 = 0; c0 < C; c0 += 64) {
          const int64_t c1 = std::min(C, c0 + 64);
          for (int64_t p = p0; p < p1; ++p) {
            for (int64_t c = c0; c < c1; ++c) {
              const T value = image[c * P + p];
              const bool fits = value >= T(-128 * std::is_signed<T>::value) && value <= T(127);
              const int8_t byte = static_cast<int8_t>(fits ? value : T(0));
              range.integral &= fits && static_cast<T>(byte) == value;
              range.minimum = std::min(range.minimum, static_cast<T>(byte));
              range.maximum = std::max(range.maximum, static_cast<T>(byte));
              out[p * C + c] = byte;
            }
          }
        }
      }
    }
    ranges[worker] = range;
  });
  NarrowResult result{true, 0, 0};
  for (const Range& range : ranges) {
    result.integral &= range.integral;
    result.minimum = std::min(result.minimum, static_cast<int>(range.minimum));
    result.maximum = std::max(result.maximum, static_cast<int>(range.maximum));
  }
  return result;
}

#define SBC_INSTANTIATE(T) \
  template NarrowResult narrow_spikes<T>(const T*, int64_t, int64_t, int64_t, int8_t*, int);
SBC_INSTANTIATE(uint8_t)
SBC_INSTANTIATE(int8_t)
SBC_INSTANTIATE(uint16_t)
SBC_INSTANTIATE(int16_t)
SBC_INSTANTIATE(uint32_t)
SBC_INSTANTIATE(int32_t)
SBC_INSTANTIATE(uint64_t)
SBC_INSTANTIATE(int64_t)
SBC_INSTANTIATE(float)
SBC_INSTANTIATE(double)
#undef SBC_INSTANTIATE

}  // namespace sbc
