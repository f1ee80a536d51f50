#include "spike_gram/layout.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/integers.h"
#include "common/threads.h"

namespace sbc {

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

void assemble_conv(const ConvRegion* regions, int64_t num_regions, int64_t groups, int64_t channels,
                   int64_t taps, double factor, double* matrix, int threads) {
  // Eight channels at once: what is read down the columns of the sums comes in whole cache lines.
  constexpr int64_t kSide = 8;
  const int64_t d = channels * taps, sides = ceil_div(channels, kSide);
  parallel_for(groups * sides, threads, [&](int64_t task, int) {
    const int64_t group = task / sides, first = task % sides * kSide;
    const int64_t last = std::min(channels, first + kSide);
    double* const own = matrix + group * d * d;
    std::fill(own + first * taps * d, own + last * taps * d, 0.0);
    const auto at = [&](int64_t row, int64_t row_tap, int64_t column,
                        int64_t column_tap) -> double& {
      return own[(row * taps + row_tap) * d + column * taps + column_tap];
    };
    for (int64_t r = 0; r < num_regions; ++r) {
      for (int64_t block = 0; block < regions[r].num_blocks; ++block) {
        const int32_t* which = regions[r].blocks + 3 * block;
        const double* sums =
            regions[r].sums + (group * regions[r].num_shifts + which[0]) * channels * channels;
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
    for (double* value = &at(first, 0, 0, 0); value < own + last * taps * d; ++value) {
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

// Calls take(value, byte) for each value of an image [C, P] and its place in the bytes [P, C].
template <class T, class Take>
static void for_each_value(const T* image, int64_t C, int64_t P, int8_t* out, Take&& take) {
  if (C == 1 || P == 1) {  // nothing to transpose
    for (int64_t i = 0; i < C * P; ++i) take(image[i], &out[i]);
    return;
  }
  // 64 x 64 blocks: both sides of the transposition stay in the first-level cache.
  for (int64_t p0 = 0; p0 < P; p0 += 64) {
    const int64_t p1 = std::min(P, p0 + 64);
    for (int64_t c0 = 0; c0 < C; c0 += 64) {
      const int64_t c1 = std::min(C, c0 + 64);
      for (int64_t p = p0; p < p1; ++p) {
        for (int64_t c = c0; c < c1; ++c) take(image[c * P + p], &out[p * C + c]);
      }
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
      if (!range.integral) break;
      const T* image = from + o * C * P;
      int8_t* out = to == nullptr ? nullptr : to + o * C * P;
      if (sizeof(T) == 1) {
        T minimum = 0, maximum = 0;
        for (int64_t i = 0; i < C * P; ++i) {
          minimum = image[i] < minimum ? image[i] : minimum;
          maximum = image[i] > maximum ? image[i] : maximum;
        }
        range.minimum = std::min(range.minimum, minimum);
        range.maximum = std::max(range.maximum, maximum);
        range.integral &= range.maximum <= T(127);
        if (to != nullptr) transpose_image(reinterpret_cast<const int8_t*>(image), C, P, out);
        continue;
      }
      const auto take = [&](T value, int8_t* byte) {
        const bool fits = value >= T(-128 * std::is_signed<T>::value) && value <= T(127);
        *byte = static_cast<int8_t>(fits ? value : T(0));
        range.integral &= fits && static_cast<T>(*byte) == value;
        range.minimum = std::min(range.minimum, static_cast<T>(*byte));
        range.maximum = std::max(range.maximum, static_cast<T>(*byte));
      };
      for_each_value(image, C, P, out, take);
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

template <class T>
MultiplesResult narrow_multiples(const T* from, int64_t outer, int64_t C, int64_t P, double unit,
                                 int8_t* to, int threads) {
  struct Slice {
    T largest = 0, misfit = 0;
    int minimum = 0, maximum = 0;
    bool integral = true;
  };
  const T step = static_cast<T>(unit), inverse = static_cast<T>(1.0 / unit);
  constexpr T kTolerance = 4 * std::numeric_limits<T>::epsilon();
  const int64_t slices = std::min<int64_t>(std::max<int64_t>(outer, 1), 64);
  std::vector<Slice> found(slices);
  std::atomic<bool> stop{false};  // slices start in order: those before the misfit's are all done
  parallel_for(slices, threads, [&](int64_t index, int) {
    if (stop.load(std::memory_order_relaxed)) return;
    Slice slice;
    const auto take = [&](T value, int8_t* byte) {
      const T quotient = value * inverse;
      // A NaN is in no range. Half a unit away from 0, truncation rounds to the nearest.
      const bool near = quotient > T(-128.5) && quotient < T(127.5);
      const T whole = static_cast<T>(
          static_cast<int>((near ? quotient : T(0)) + (value < 0 ? T(-0.5) : T(0.5))));
      const T size = value < 0 ? -value : value, rest = value - whole * step;
      const bool fits = near && (rest < 0 ? -rest : rest) <= kTolerance * size;
      const int integer = static_cast<int>(whole);
      *byte = static_cast<int8_t>(integer);
      slice.minimum = std::min(slice.minimum, integer);
      slice.maximum = std::max(slice.maximum, integer);
      slice.largest = std::max(slice.largest, size);
      slice.integral &= fits;
    };
    for (int64_t o = outer * index / slices; o < outer * (index + 1) / slices; ++o) {
      const T* image = from + o * C * P;
      int8_t* out = to + o * C * P;
      for_each_value(image, C, P, out, take);
      if (slice.integral) continue;
      stop.store(true, std::memory_order_relaxed);
      slice.integral = true;
      for (int64_t i = 0; i < C * P; ++i) {
        take(image[i], out);
        slice.misfit = image[i];
        if (!slice.integral) break;
      }
      break;
    }
    found[index] = slice;
  });
  MultiplesResult result{true, 0, 0, 0.0, 0.0};
  for (const Slice& slice : found) {
    if (!slice.integral) return {false, 0, 0, 0.0, static_cast<double>(slice.misfit)};
    result.minimum = std::min(result.minimum, slice.minimum);
    result.maximum = std::max(result.maximum, slice.maximum);
    result.largest = std::max(result.largest, static_cast<double>(slice.largest));
  }
  return result;
}

template MultiplesResult narrow_multiples<float>(const float*, int64_t, int64_t, int64_t, double,
                                                 int8_t*, int);
template MultiplesResult narrow_multiples<double>(const double*, int64_t, int64_t, int64_t, double,
                                                  int8_t*, int);

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
