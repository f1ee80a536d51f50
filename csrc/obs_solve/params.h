// Parameters of obs_solve.
#pragma once

#include <cstdint>

namespace sbc {

// For each row r with S = {j : select[r, j]}: solution[r, S] = matrix[S, S]^-1 rhs[r, S], 0
// elsewhere.
template <class T>
struct ObsSolveParams {
  const T* matrix;        // [d, d], symmetric positive definite
  const T* rhs;           // [rows, d]
  const uint8_t* select;  // [rows, d]
  int64_t rows, d;
  T* solution;      // [rows, d]
  int32_t* failed;  // [rows]: 1 + the place in S of a pivot that is not positive, or 0
  bool multiply = false;
};

}  // namespace sbc
