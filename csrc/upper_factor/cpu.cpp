#include "upper_factor/cpu.h"

#include "common/tiles.h"

namespace sbc {
namespace SBC_ISA {
namespace {

constexpr int kSide = kTile<double>;

TileTriangle<double> triangle(int64_t d, const double* scratch) {
  return {const_cast<double*>(scratch), tile_count<double>(d)};
}

}  // namespace

// The padding is an identity.
template <class T>
void gather_tile_row(const UpperFactorParams<T>& params, int64_t it, double* scratch) {
  const TileTriangle<double> a = triangle(params.d, scratch);
  for (int64_t jt = it; jt < a.tiles; ++jt) {
    double* to = a.tile(it, jt);
    for (int64_t i = it * kSide; i < (it + 1) * kSide; ++i, to += kSide) {
      const int64_t left = i < params.d ? params.d - jt * kSide : 0;
      const int64_t live = left < 0 ? 0 : left < kSide ? left : kSide;
      const int32_t* perm = params.perm + params.d - 1 - jt * kSide;
      const T* from = live > 0 ? params.matrix + params.perm[params.d - 1 - i] * params.d : nullptr;
      for (int64_t j = 0; j < live; ++j) to[j] = from[perm[-j]];
      for (int64_t j = live; j < kSide; ++j) to[j] = i == jt * kSide + j;
    }
  }
}

template <class T>
void scatter_tile_row(const UpperFactorParams<T>& params, int64_t it, const double* scratch) {
  const TileTriangle<double> u = triangle(params.d, scratch);
  const int64_t d = params.d;
  for (int64_t jt = it; jt < u.tiles; ++jt) {
    const double* tile = u.tile(it, jt);
    for (int64_t j = jt * kSide; j < (jt + 1) * kSide && j < d; ++j) {
      const int64_t last = j < (it + 1) * kSide ? j + 1 : (it + 1) * kSide;
      T* row = params.factor + (d - 1 - j) * d;
      for (int64_t i = it * kSide; i < last; ++i) {
        row[d - 1 - i] = static_cast<T>(tile[(i - it * kSide) * kSide + j - jt * kSide]);
      }
    }
    for (int64_t i = it * kSide; i < (it + 1) * kSide && i < d; ++i) {
      const int64_t first = i + 1 > jt * kSide ? i + 1 : jt * kSide;
      T* row = params.factor + (d - 1 - i) * d;
      for (int64_t j = first; j < (jt + 1) * kSide && j < d; ++j) row[d - 1 - j] = T(0);
    }
  }
}

#define SBC_INSTANTIATE(T)                                                         \
  template void gather_tile_row<T>(const UpperFactorParams<T>&, int64_t, double*); \
  template void scatter_tile_row<T>(const UpperFactorParams<T>&, int64_t, const double*);
SBC_INSTANTIATE(float)
SBC_INSTANTIATE(double)
#undef SBC_INSTANTIATE

}  // namespace SBC_ISA
}  // namespace sbc
