// Parameters of inverse.
#pragma once

#include <cstdint>

namespace sbc {

struct InverseParams {
  const double* matrix;  // [d, d], symmetric positive definite; its upper triangle is read
  int64_t d;
  double* inverse;  // [d, d], exactly symmetric
};

}  // namespace sbc
