// Parameters of obs_select.
#pragma once

#include <cstdint>

namespace sbc {

template <class T>
struct ObsSelectParams {
  const T* weight;   // [rows, d]
  const T* hessian;  // [d, d], symmetric, of a positive diagonal
  int64_t rows, d;
  int64_t num_kept;  // per row, at most d
  // Optional (null: none). A group keeps no more weights than its quota.
  const int32_t* group;  // [d], each in [0, num_groups)
  const int32_t* quota;  // [num_groups]
  int64_t num_groups;
  int32_t* order;   // [rows, num_kept]: the kept weights, first to last
  T* gain;          // [rows, num_kept]: g_p^2 / (2 s_p) when it is added
  int32_t* failed;  // [rows]: 0, or 1 + the step at which the Hessian showed not to be positive
};

}  // namespace sbc
