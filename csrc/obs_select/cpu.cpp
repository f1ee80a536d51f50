#include "obs_select/cpu.h"

#include "common/scalar_math.h"
#include "common/simd.h"

// Adding the weights that stay one at a time is a pivoted Cholesky factorisation of H whose pivot
// is the weight with the largest g_p^2 / s_p, where g = H (w0 - w) and s is the diagonal of H's
// Schur complement. With Q the lines of the factor so far, a step is
//
//   q = (H_p - Q' Q_p) / sqrt(s_p),  g -= g_p / sqrt(s_p) q,  s -= q^2,
//
// one sweep over Q. Q is stored strip by strip, [strips][num_kept][kStrip], so that the sweep reads
// memory from front to back while a strip's sums stay in eight registers.

namespace sbc {
namespace SBC_ISA {
namespace {

constexpr int kVectors = 8;  // independent sums, which hide the latency of the FMAs

template <class T>
constexpr int kStrip = kVectors * kLanes<T>;

template <class T>
constexpr T kEpsilon = sizeof(T) == 4 ? T(1.1920929e-07) : T(2.220446049250313e-16);

// Of an entry of H's diagonal: what rounding may leave of a positive one, and the most that it
// takes below zero where small pivots, of kSpent, have amplified it.
template <class T>
constexpr T kSpent = 8 * kEpsilon<T>;
template <class T>
constexpr T kNegative = sizeof(T) == 4 ? T(1e-3) : T(6e-8);

template <class T>
int64_t strips(int64_t d) {
  return (d + kStrip<T> - 1) / kStrip<T>;
}

template <class T>
struct IntegerOf;
template <>
struct IntegerOf<float> {
  typedef int32_t type;
};
template <>
struct IntegerOf<double> {
  typedef int64_t type;
};

// The largest score so far in each lane, and its place. Ties go to the lower place.
template <class T>
struct LargestScore {
  typedef typename IntegerOf<T>::type Integer;
  Vector<T> score = broadcast<T>(T(-1));
  Vector<Integer> place = Vector<Integer>{} - Integer{1};

  void see(Vector<T> candidate, int64_t at) {
    const Vector<Integer> more = candidate > score;
    score = more ? candidate : score;
    place = more ? Vector<Integer>{} + static_cast<Integer>(at) : place;
  }
  int64_t find(T* best) const {
    int64_t found = -1;
    *best = T(-1);
    for (int i = 0; i < kLanes<T>; ++i) {
      if (score[i] < T(0)) continue;
      const int64_t here = static_cast<int64_t>(place[i]) + i;
      if (score[i] > *best || (score[i] == *best && here < found)) *best = score[i], found = here;
    }
    return found;
  }
};

// g^2 / s, whose square alone might overflow; 0 where nothing is left; -1 where nothing may be
// added.
template <class T>
Vector<T> score_of(Vector<T> g, Vector<T> s, Vector<T> spent, Vector<T> barred) {
  const Vector<T> zero{}, one = zero + T(1);
  const auto live = s > spent;
  const Vector<T> ratio = g * (g / (live ? s : one));
  const Vector<T> score = (live & (ratio > zero)) ? ratio : zero;  // NaN is 0
  return barred > zero ? zero - one : score;
}

}  // namespace

template <class T>
int64_t select_scratch_elements(int64_t d, int64_t num_kept) {
  return strips<T>(d) * kStrip<T> * (num_kept + 4) + num_kept;
}

template <class T>
void select_row(const ObsSelectParams<T>& params, int64_t row, const T* gradient, T* scratch,
                int64_t* left) {
  typedef Vector<T> V;
  constexpr int strip = kStrip<T>, lanes = kLanes<T>;
  const int64_t d = params.d, kept = params.num_kept, count = strips<T>(d), padded = count * strip;
  T* g = scratch;
  T* s = g + padded;
  T* spent = s + padded;       // s at or below it is nothing but rounding
  T* barred = spent + padded;  // 1 where nothing may be added, else 0
  T* lines = barred + padded;
  T* factors = lines + padded * kept;
  int32_t* order = params.order + row * kept;
  T* gain = params.gain + row * kept;
  params.failed[row] = 0;
  for (int64_t k = 0; k < params.num_groups; ++k) left[k] = params.quota[k];
  for (int64_t i = 0; i < padded; ++i) {
    const bool live = i < d;
    g[i] = live ? gradient[i] : T(0);
    s[i] = live ? params.hessian[i * d + i] : T(1);
    spent[i] = live ? kSpent<T> * s[i] : T(0);
    barred[i] = live && (params.group == nullptr || left[params.group[i]] > 0) ? T(0) : T(1);
  }
  LargestScore<T> largest;
  for (int64_t at = 0; at < padded; at += lanes) {
    largest.see(
        score_of<T>(load<T>(g + at), load<T>(s + at), load<T>(spent + at), load<T>(barred + at)),
        at);
  }
  for (int64_t k = 0; k < kept; ++k) {
    T best;
    const int64_t p = largest.find(&best);
    order[k] = static_cast<int32_t>(p);
    gain[k] = best / 2;
    barred[p] = T(1);
    if (params.group != nullptr && --left[params.group[p]] == 0) {
      for (int64_t i = 0; i < d; ++i) {
        if (params.group[i] == params.group[p]) barred[i] = T(1);
      }
    }
    // A weight that depends on those kept changes nothing: its line is zero.
    const bool live = s[p] > spent[p];
    const T scale = live ? T(1) / square_root(s[p]) : T(0);
    const T step = g[p] * scale;
    const T* earlier = lines + (p / strip) * kept * strip + p % strip;
    for (int64_t j = 0; j < k; ++j) factors[j] = earlier[j * strip];
    const T* from = params.hessian + p * d;
    largest = LargestScore<T>();
    V below{};
    for (int64_t it = 0; it < count; ++it) {
      const int64_t at = it * strip;
      T* panel = lines + at * kept;
      V sum[kVectors];
      if (at + strip <= d) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[v] = load<T>(from + at + v * lanes);
      } else {
        T line[kStrip<T>];
        for (int i = 0; i < strip; ++i) line[i] = at + i < d ? from[at + i] : T(0);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[v] = load<T>(line + v * lanes);
      }
      for (int64_t j = 0; j < k; ++j) {
        const V factor = broadcast<T>(factors[j]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v)
          sum[v] -= factor * load<T>(panel + j * strip + v * lanes);
      }
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const int64_t here = at + v * lanes;
        const V q = sum[v] * scale;
        const V rest = load<T>(g + here) - step * q;
        const V diagonal = load<T>(s + here) - q * q;
        const V least = load<T>(spent + here), bar = load<T>(barred + here);
        const V over = diagonal + least * (kNegative<T> / kSpent<T>);
        below = (over < V{}) & (bar == V{}) ? V{} + T(1) : below;
        store<T>(panel + k * strip + v * lanes, q);
        store<T>(g + here, rest);
        store<T>(s + here, diagonal);
        largest.see(score_of<T>(rest, diagonal, least, bar), here);
      }
    }
    for (int i = 0; i < lanes && params.failed[row] == 0; ++i) {
      if (below[i] > T(0)) params.failed[row] = static_cast<int32_t>(k + 1);
    }
  }
}

#define SBC_INSTANTIATE(T)                                       \
  template int64_t select_scratch_elements<T>(int64_t, int64_t); \
  template void select_row<T>(const ObsSelectParams<T>&, int64_t, const T*, T*, int64_t*);
SBC_INSTANTIATE(float)
SBC_INSTANTIATE(double)
#undef SBC_INSTANTIATE

}  // namespace SBC_ISA
}  // namespace sbc
