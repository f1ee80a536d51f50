// Parameters of obs_order.
#pragma once

#include <cstdint>

namespace sbc {

template <class T>
struct ObsOrderParams {
  const T* weight;           // [rows, d]
  const T* inverse_hessian;  // [d, d], symmetric
  int64_t rows, d;
  int64_t num_pruned;  // per row, at most d
  // Optional (null: none). A group loses no more weights than its quota.
  const int32_t* group;  // [d], each in [0, num_groups)
  const int32_t* quota;  // [num_groups]
  int64_t num_groups;
  int32_t* order;  // [rows, num_pruned]: the removed weights, first to last
  T* loss;         // [rows, num_pruned]: w_p^2 / (2 G_pp) at its removal
};

}  // namespace sbc
