// What the Gram kernels need around them, the same on every instruction set: spikes to int8 with
// the channels last, a matrix completed from its upper triangle, and one put together from the sums
// of a convolution.

#include <algorithm>
#include <cmath>

#include "check.h"
#include "spike_gram/layout.h"

namespace sbc::check {
namespace {

template <class T>
void check_narrow(Random& random, const char* type, bool integral, std::vector<T> extremes,
                  Tally& tally) {
  for (const int64_t C : {1, 3, 15, 16, 17, 32, 64, 65, 130}) {
    for (const int64_t P : {1, 2, 15, 16, 17, 33, 63, 64, 70}) {
      const int64_t outer = random.integer(1, 4);
      const int threads = static_cast<int>(random.integer(1, 2));
      Case test(tally, join(type, " [", outer, ", ", C, ", ", P, "], threads ", threads));
      std::vector<T> from(outer * C * P);
      const int64_t largest = random.chance(0.5) ? 1 : 120;
      for (T& value : from) value = static_cast<T>(random.integer(0, largest));
      const bool last = random.chance(0.5);
      for (const T extreme : extremes) {
        from[last ? from.size() - 1 : random.integer(0, from.size() - 1)] = extreme;
      }
      int minimum = 0, maximum = 0;
      std::vector<int8_t> to(from.size(), -77);
      const NarrowResult result = narrow_spikes(from.data(), outer, C, P, to.data(), threads);
      test.expect(result.integral == integral, "integral is wrong");
      if (!integral) continue;  // `to` is not to be used then
      bool same = true;
      for (int64_t o = 0; o < outer; ++o) {
        for (int64_t c = 0; c < C; ++c) {
          for (int64_t p = 0; p < P; ++p) {
            const int value = static_cast<int>(from[(o * C + c) * P + p]);
            same &= to[(o * P + p) * C + c] == value;
            minimum = std::min(minimum, value), maximum = std::max(maximum, value);
          }
        }
      }
      test.expect(same, "a value is wrong");
      test.expect(result.minimum == minimum && result.maximum == maximum, "the range is wrong");
    }
  }
}

// Multiples of a unit, each off by a rounding or two; `misfit` is put into the last place.
template <class T>
void check_multiples(Random& random, const char* type, double unit, T misfit, Tally& tally) {
  for (const int64_t C : {1, 3, 16, 65}) {
    for (const int64_t P : {1, 2, 33, 70}) {
      const int64_t outer = random.integer(1, 70);
      const int threads = static_cast<int>(random.integer(1, 3));
      Case test(tally,
                join(type, " times ", unit, " [", outer, ", ", C, ", ", P, "], threads ", threads));
      std::vector<T> from(outer * C * P);
      std::vector<int> integers(from.size());
      for (size_t i = 0; i < from.size(); ++i) {
        integers[i] = static_cast<int>(random.integer(-128, 127));
        const T value = static_cast<T>(integers[i]) * static_cast<T>(unit);
        from[i] = random.chance(0.5) ? value : std::nextafter(value, 2 * value);
      }
      if (misfit != 0) from.back() = misfit;
      std::vector<int8_t> to(from.size(), -77);
      const MultiplesResult result =
          narrow_multiples(from.data(), outer, C, P, unit, to.data(), threads);
      test.expect(result.integral == (misfit == 0), "integral is wrong");
      if (misfit != 0) {
        test.expect(result.misfit == static_cast<double>(misfit) || misfit != misfit,
                    "the misfit is wrong");
        continue;
      }
      bool same = true;
      T largest = 0;
      int minimum = 0, maximum = 0;
      for (int64_t o = 0; o < outer; ++o) {
        for (int64_t c = 0; c < C; ++c) {
          for (int64_t p = 0; p < P; ++p) {
            const int64_t i = (o * C + c) * P + p;
            same &= to[(o * P + p) * C + c] == integers[i];
            minimum = std::min(minimum, integers[i]), maximum = std::max(maximum, integers[i]);
            largest = std::max(largest, std::abs(from[i]));
          }
        }
      }
      test.expect(same, "an integer is wrong");
      test.expect(result.minimum == minimum && result.maximum == maximum, "the range is wrong");
      test.expect(result.largest == static_cast<double>(largest), "the largest is wrong");
    }
  }
}

}  // namespace

void check_narrow_spikes(Tally& tally) {
  Random random(2);
  check_narrow<uint8_t>(random, "uint8", true, {127}, tally);
  check_narrow<uint8_t>(random, "uint8 of 128", false, {128}, tally);
  check_narrow<int8_t>(random, "int8", true, {-128, 127}, tally);
  check_narrow<uint16_t>(random, "uint16", true, {127}, tally);
  check_narrow<uint16_t>(random, "uint16 of 256", false, {256}, tally);
  check_narrow<int16_t>(random, "int16", true, {-128, 127}, tally);
  check_narrow<int16_t>(random, "int16 of -129", false, {-129}, tally);
  check_narrow<uint32_t>(random, "uint32", true, {127}, tally);
  check_narrow<uint32_t>(random, "uint32 of 2^31", false, {1u << 31}, tally);
  check_narrow<int32_t>(random, "int32", true, {-128, 127}, tally);
  check_narrow<int32_t>(random, "int32 of the least", false, {INT32_MIN}, tally);
  check_narrow<uint64_t>(random, "uint64", true, {127}, tally);
  check_narrow<uint64_t>(random, "uint64 of the greatest", false, {UINT64_MAX}, tally);
  check_narrow<int64_t>(random, "int64", true, {-128, 127}, tally);
  check_narrow<int64_t>(random, "int64 of the least", false, {INT64_MIN}, tally);
  check_narrow<float>(random, "float", true, {-128, 127, -0.0f}, tally);
  check_narrow<float>(random, "float of 0.5", false, {0.5f}, tally);
  check_narrow<float>(random, "float of NaN", false, {kNaN<float>}, tally);
  check_narrow<double>(random, "double", true, {-128, 127}, tally);
  check_narrow<double>(random, "double of 1 + epsilon", false, {std::nextafter(1.0, 2.0)}, tally);
  check_narrow<double>(random, "double of infinity", false,
                       {std::numeric_limits<double>::infinity()}, tally);
  for (const double unit : {1.0, 0.25, 1.0 / 9, 1.2345678, 1e-30, 1e30}) {
    check_multiples<float>(random, "float", unit, 0.0f, tally);
    check_multiples<double>(random, "double", unit, 0.0, tally);
    check_multiples<float>(random, "float, half", unit, static_cast<float>(unit) * 1.5f, tally);
    check_multiples<double>(random, "double, 128 units", unit, unit * 128, tally);
    check_multiples<double>(random, "double, not quite", unit, unit * (1 + 3e-15), tally);
    check_multiples<float>(random, "float, NaN", unit, kNaN<float>, tally);
    check_multiples<double>(random, "double, infinity", unit, -1 / 0.0, tally);
  }
}

void check_mirror_upper(Tally& tally) {
  Random random(3);
  for (const int64_t d : ragged_sizes(false)) {
    for (const int threads : {1, 2}) {
      Case test(tally, join("d ", d, ", threads ", threads));
      std::vector<double> matrix(d * d, kNaN<double>);
      for (int64_t i = 0; i < d; ++i) {
        for (int64_t j = i; j < d; ++j) matrix[i * d + j] = random.real();
      }
      const std::vector<double> upper = matrix;
      mirror_upper(matrix.data(), d, 3.0, threads);
      for (int64_t i = 0; i < d; ++i) {
        for (int64_t j = 0; j < d; ++j) {
          const double expected = 3.0 * upper[std::min(i, j) * d + std::max(i, j)];
          if (matrix[i * d + j] != expected) test.expect(false, join("entry ", i, ", ", j));
        }
      }
    }
  }
}

void check_assemble_conv(Tally& tally) {
  Random random(5);
  for (const int64_t channels : {1, 3, 7, 8, 9, 16, 17, 40}) {
    for (const int64_t taps : {1, 2, 4, 9}) {
      // Shift 0 is nowhere: the blocks of a tap with itself, whose lower triangle is undefined.
      const int64_t shifts = random.integer(2, 5), square = channels * channels;
      std::vector<std::vector<double>> sums(random.integer(1, 4));
      std::vector<std::vector<int32_t>> blocks(sums.size());
      const int64_t d = channels * taps;
      std::vector<double> expected(d * d, 0.0);
      const auto at = [&](int64_t row, int64_t row_tap, int64_t column,
                          int64_t column_tap) -> double& {
        return expected[(row * taps + row_tap) * d + column * taps + column_tap];
      };
      for (size_t r = 0; r < sums.size(); ++r) {
        sums[r].resize(shifts * square);
        for (double& value : sums[r]) value = static_cast<double>(random.integer(-1000, 1000));
        for (int64_t i = 0; i < channels; ++i) {
          for (int64_t j = 0; j < i; ++j) sums[r][i * channels + j] = kNaN<double>;
        }
        for (int64_t b = random.integer(0, 2 * taps); b > 0; --b) {
          const int64_t tap = random.integer(0, taps - 1), other = random.integer(0, taps - 1);
          const int64_t shift = tap == other ? 0 : random.integer(1, shifts - 1);
          for (const int64_t value : {shift, tap, other}) {
            blocks[r].push_back(static_cast<int32_t>(value));
          }
          const double* sum = sums[r].data() + shift * square;
          for (int64_t x = 0; x < channels; ++x) {
            for (int64_t z = 0; z < channels; ++z) {
              if (tap == other) {
                at(z, tap, x, tap) += sum[std::min(x, z) * channels + std::max(x, z)];
              } else {
                at(z, tap, x, other) += sum[x * channels + z];
                at(x, other, z, tap) += sum[x * channels + z];
              }
            }
          }
        }
      }
      // Group g has g + 1 times the sums of the first one.
      const int64_t groups = random.integer(1, 3);
      std::vector<ConvRegion> regions;
      for (size_t r = 0; r < sums.size(); ++r) {
        const int64_t size = shifts * square;
        sums[r].resize(groups * size);
        for (int64_t i = size; i < groups * size; ++i) {
          sums[r][i] = static_cast<double>(i / size + 1) * sums[r][i % size];
        }
        regions.push_back(
            {sums[r].data(), shifts, blocks[r].data(), static_cast<int64_t>(blocks[r].size() / 3)});
      }
      for (const int threads : {1, 2, 5}) {
        Case test(tally, join("groups ", groups, ", channels ", channels, ", taps ", taps,
                              ", threads ", threads));
        std::vector<double> matrix(groups * d * d, kNaN<double>);
        assemble_conv(regions.data(), static_cast<int64_t>(regions.size()), groups, channels, taps,
                      0.75, matrix.data(), threads);
        for (int64_t i = 0; i < groups * d * d; ++i) {
          const int64_t row = i / d % d;
          if (matrix[i] != 0.75 * static_cast<double>(i / (d * d) + 1) * expected[i % (d * d)])
            test.expect(false, join("group ", i / (d * d), ", entry ", row, ", ", i % d));
        }
      }
    }
  }
}

}  // namespace sbc::check
