// Parameters of upper_factor.
#pragma once

#include <cstdint>

namespace sbc {

// R, upper triangular with zeros below, such that matrix[perm, perm] = R R'.
template <class T>
struct UpperFactorParams {
  const T* matrix;      // [d, d], symmetric positive definite; its upper or lower triangle is read
  const int32_t* perm;  // [d]
  int64_t d;
  T* factor;  // [d, d]
};

}  // namespace sbc
