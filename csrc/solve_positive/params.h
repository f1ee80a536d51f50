// Parameters of solve_positive.
#pragma once

#include <cstdint>

namespace sbc {

// solution[r, :] = matrix^-1 rhs[r, :] for each row r.
struct SolvePositiveParams {
  const double* matrix;  // [d, d], symmetric positive definite; its upper triangle is read
  const double* rhs;     // [rows, d]
  int64_t rows, d;
  double* solution;  // [rows, d]
};

}  // namespace sbc
