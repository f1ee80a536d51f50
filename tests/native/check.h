// Shared by the checks: deterministic random numbers, and a tally in which NaN never passes.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "common/isa.h"

namespace sbc::check {

// SplitMix64. The distributions of the standard library may differ between implementations; this
// generator does not.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  int64_t integer(int64_t least, int64_t greatest) {
    return least + static_cast<int64_t>(next() % static_cast<uint64_t>(greatest - least + 1));
  }
  double real() { return static_cast<double>(next() >> 11) * 0x1p-52 - 1.0; }  // [-1, 1)
  bool chance(double probability) { return real() < 2 * probability - 1; }

 private:
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  uint64_t state_;
};

template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

// The cases of one op on one instruction set.
struct Tally {
  int passed = 0, failed = 0;
  double worst = 0;  // the largest error so far, as a fraction of its bound
};

// One set of inputs. It passes if all expectations hold, and is counted when it ends.
class Case {
 public:
  Case(Tally& tally, std::string name) : tally_(tally), name_(std::move(name)) {}
  ~Case();  // prints the first expectation that failed
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

  bool expect(bool holds, const std::string& what);
  // Expects error <= bound, which NaN never satisfies.
  bool within(double error, double bound, const std::string& what);

 private:
  Tally& tally_;
  std::string name_, broken_;
};

template <class T>
constexpr const char* kTypeName = sizeof(T) == 4 ? "float" : "double";
template <class T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

// Bound on the error of n roundings of terms of size 1. They round up as often as down, so the
// error grows with sqrt(n). The checks reach a quarter of this bound (see the last column of the
// output), and a wrong index or a lost term exceeds it by orders of magnitude.
template <class T>
double rounding(int64_t n) {
  return 4 * std::sqrt(static_cast<double>(n)) * std::numeric_limits<T>::epsilon();
}

// Sizes around every width that the kernels use: 4 to 64 lanes, tiles of 4 to 48, panels of 24 and
// 48.
std::vector<int64_t> ragged_sizes(bool quick);

// A symmetric positive definite matrix: a diagonal in [1, 2] plus eight random directions.
// Row-major.
template <class T>
std::vector<T> positive_definite(Random& random, int64_t d);

void check_spike_gram(Isa isa, bool quick, Tally& tally);
void check_narrow_spikes(Tally& tally);
void check_mirror_upper(Tally& tally);
void check_assemble_conv(Tally& tally);
void check_scratch(Tally& tally);
void check_cuda_panel(bool quick, Tally& tally);
void check_obs_order(Isa isa, bool quick, Tally& tally);
void check_obs_select(Isa isa, bool quick, Tally& tally);
void check_obs_solve(Isa isa, bool quick, Tally& tally);
void check_obs_quantize(Isa isa, bool quick, Tally& tally);
void check_upper_factor(Isa isa, bool quick, Tally& tally);
void check_inverse(Isa isa, bool quick, Tally& tally);
void check_solve_positive(Isa isa, bool quick, Tally& tally);
void check_product(Isa isa, bool quick, Tally& tally);
void check_far(Isa isa, bool quick, Tally& tally);

}  // namespace sbc::check
