// Parameters of product and add_square.
#pragma once

#include <cstdint>

namespace sbc {

// out = left right
template <class T>
struct ProductParams {
  const T* left;   // [m, k]
  const T* right;  // [k, n]
  int64_t m, k, n;
  T* out;  // [m, n]
};

// total += rows' rows
struct SquareParams {
  const double* rows;  // [k, d]
  int64_t k, d;
  double* total;  // [d, d], symmetric before and after
};

}  // namespace sbc
