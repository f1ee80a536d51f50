// What spike_gram needs around it, the same on every instruction set: spikes to int8 with the
// channels last, and a matrix completed from its upper triangle.

#include <algorithm>

#include "check.h"
#include "spike_gram/spike_gram.h"

namespace sbc::check {
namespace {

template <class T>
void check_narrow(Random& random, const char* type, bool integral, std::vector<T> extremes,
                  Tally& tally) {
  for (const int64_t C : {1, 3, 64, 65, 130}) {
    for (const int64_t P : {1, 2, 63, 64, 70}) {
      const int64_t outer = random.integer(1, 4);
      const int threads = static_cast<int>(random.integer(1, 2));
      Case test(tally, join(type, " [", outer, ", ", C, ", ", P, "], threads ", threads));
      std::vector<T> from(outer * C * P);
      for (T& value : from) value = static_cast<T>(random.integer(0, 1));
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

}  // namespace sbc::check
