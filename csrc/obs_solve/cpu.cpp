#include "obs_solve/cpu.h"

#include "common/cholesky.h"

namespace sbc {
namespace SBC_ISA {
namespace {

// Returns 0, or 1 + the place of the first bad pivot.
template <class T>
int64_t factor(const TileTriangle<T>& a) {
  for (int64_t it = 0; it < a.tiles; ++it) {
    update_tile(a, it, it);
    const int bad = factor_tile(a.tile(it, it));
    if (bad >= 0) return it * kTile<T> + bad + 1;
    for (int64_t jt = it + 1; jt < a.tiles; ++jt) {
      update_tile(a, it, jt);
      solve_tile(a.tile(it, it), a.tile(it, jt));
    }
  }
  return 0;
}

// x <- (U'U)^-1 x
template <class T>
void substitute(const TileTriangle<T>& u, T* x) {
  constexpr int tile = kTile<T>;
  for (int64_t it = 0; it < u.tiles; ++it) {
    const T* diagonal = u.tile(it, it);
    for (int i = 0; i < tile; ++i) {
      const T value = x[it * tile + i] /= diagonal[i * tile + i];
      for (int j = i + 1; j < tile; ++j) x[it * tile + j] -= diagonal[i * tile + j] * value;
    }
    for (int64_t jt = it + 1; jt < u.tiles; ++jt) {
      const T* from = u.tile(it, jt);
      for (int i = 0; i < tile; ++i) {
        const T value = x[it * tile + i];
        for (int j = 0; j < tile; ++j) x[jt * tile + j] -= from[i * tile + j] * value;
      }
    }
  }
  for (int64_t it = u.tiles - 1; it >= 0; --it) {
    for (int64_t jt = it + 1; jt < u.tiles; ++jt) {
      const T* from = u.tile(it, jt);
      for (int i = 0; i < tile; ++i) {
        T sum = 0;
        for (int j = 0; j < tile; ++j) sum += from[i * tile + j] * x[jt * tile + j];
        x[it * tile + i] -= sum;
      }
    }
    const T* diagonal = u.tile(it, it);
    for (int i = tile - 1; i >= 0; --i) {
      T sum = x[it * tile + i];
      for (int j = i + 1; j < tile; ++j) sum -= diagonal[i * tile + j] * x[it * tile + j];
      x[it * tile + i] = sum / diagonal[i * tile + i];
    }
  }
}

// Eight independent sums hide the latency of the FMAs.
template <class T>
T dot(const T* a, const T* b, int64_t count) {
  constexpr int step = 8 * kLanes<T>;
  Vector<T> sum[8] = {};
  int64_t i = 0;
  for (; i + step <= count; i += step) {
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) {
      sum[v] += load<T>(a + i + v * kLanes<T>) * load<T>(b + i + v * kLanes<T>);
    }
  }
  T total = 0;
  for (; i < count; ++i) total += a[i] * b[i];
  for (int v = 1; v < 8; ++v) sum[0] += sum[v];
  for (int lane = 0; lane < kLanes<T>; ++lane) total += sum[0][lane];
  return total;
}

// Gathers the rows and columns of the subset from the matrix. The padding is an identity.
template <class T>
void gather(const ObsSolveParams<T>& params, const int32_t* subset, int64_t size,
            const TileTriangle<T>& a) {
  constexpr int tile = kTile<T>;
  for (int64_t it = 0; it < a.tiles; ++it) {
    for (int64_t jt = it; jt < a.tiles; ++jt) {
      T* to = a.tile(it, jt);
      for (int64_t i = it * tile; i < (it + 1) * tile; ++i, to += tile) {
        const int64_t live = i >= size ? 0 : size - jt * tile < tile ? size - jt * tile : tile;
        const T* from = i < size ? params.matrix + subset[i] * params.d : nullptr;
        for (int64_t j = 0; j < live; ++j) to[j] = from[subset[jt * tile + j]];
        for (int64_t j = live; j < tile; ++j) to[j] = T(i == jt * tile + j);
      }
    }
  }
}

}  // namespace

template <class T>
int64_t solve_scratch_elements(int64_t largest_subset) {
  return TileTriangle<T>::elements(largest_subset) + tile_count<T>(largest_subset) * kTile<T>;
}

template <class T>
void solve_row(const ObsSolveParams<T>& params, int64_t row, T* scratch, int32_t* subset) {
  int64_t size = 0;
  for (int64_t j = 0; j < params.d; ++j) {
    if (params.select[row * params.d + j]) subset[size++] = static_cast<int32_t>(j);
  }
  const TileTriangle<T> a{scratch, tile_count<T>(size)};
  T* x = scratch + TileTriangle<T>::elements(size);
  T* solution = params.solution + row * params.d;
  gather(params, subset, size, a);
  const T* rhs = params.rhs + row * params.d;
  for (int64_t i = 0; i < size; ++i) {
    x[i] =
        params.multiply ? dot(params.matrix + subset[i] * params.d, rhs, params.d) : rhs[subset[i]];
  }
  for (int64_t i = size; i < a.tiles * kTile<T>; ++i) x[i] = T(0);
  __builtin_memset(solution, 0, params.d * sizeof(T));
  params.failed[row] = static_cast<int32_t>(factor(a));
  if (params.failed[row] != 0) return;
  substitute(a, x);
  for (int64_t i = 0; i < size; ++i) solution[subset[i]] = x[i];
}

template int64_t solve_scratch_elements<float>(int64_t);
template int64_t solve_scratch_elements<double>(int64_t);
template void solve_row<float>(const ObsSolveParams<float>&, int64_t, float*, int32_t*);
template void solve_row<double>(const ObsSolveParams<double>&, int64_t, double*, int32_t*);

}  // namespace SBC_ISA
}  // namespace sbc
