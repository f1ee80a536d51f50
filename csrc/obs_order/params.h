// What the elimination-order kernel gets.
#pragma once

#include <cstdint>

namespace sbc {

template <class T>
struct ObsOrderParams {
  const T* weight;           // [rows, d]
  const T* inverse_hessian;  // [d, d], symmetric
  int64_t rows, d;
  int64_t num_pruned;  // of each row, at most d
  // Optional (null: none): a group stops giving up weights once it has given up its quota.
  const int32_t* group;  // [d], each in [0, num_groups)
  const int32_t* quota;  // [num_groups]
  int64_t num_groups;
  int32_t* order;  // [rows, num_pruned]: which weight goes, first to last
  T* loss;         // [rows, num_pruned]: w_p^2 / (2 G_pp) at its turn
};

}  // namespace sbc
