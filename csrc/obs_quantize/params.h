// Parameters of obs_quantize.
#pragma once

#include <cstdint>

namespace sbc {

// H, with rows and columns in the order of the sweep, is R R' with R upper triangular. Step j takes
// weight column perm[j] and rounds
//   target_j = w_j + sum_{l<j} (w_l - q_l) R_lj / R_jj
// GPTQ rounds the same number, computed from U = R^-1 and updated weights. This form needs neither
// the triangular inverse nor the running update of all later columns.
template <class T>
struct ObsQuantizeParams {
  const T* weight;      // [rows, d]
  const T* factor;      // [d, d]: R
  const int32_t* perm;  // [d]
  int64_t rows, d, block_size;

  int bits;             // 1 to 8, or 0: do not round
  const T* scale;       // [rows, groups], positive
  const T* zero_point;  // [rows, groups]
  int64_t groups;
  const int32_t* group;  // [d]: of each weight column

  // [rows, d], 0 = was zero beforehand and stays so, also where this sweep prunes, which then takes
  // these weights first; null: nothing is pruned beforehand
  const uint8_t* mask;
  int64_t num_pruned;    // of rows * d, chosen block by block; 0: none
  int64_t keep_n, of_m;  // keep_n of every of_m consecutive columns; of_m = 0: no such pattern

  T* quantized;    // [rows, d]
  uint8_t* codes;  // [rows, d], written if bits > 0
  uint8_t* kept;   // [rows, d], written if anything is pruned by this sweep
  T* loss;         // [rows]: 1/2 (w - q) H (w - q)'
};

// Static, as everything that the files of all instruction sets share: see common/simd.h.
template <class T>
static inline bool prunes(const ObsQuantizeParams<T>& params) {
  return params.num_pruned > 0 || params.of_m > 0;
}

}  // namespace sbc
