// Measures how far a matrix is from being symmetric.
#pragma once

#include <cstdint>

namespace sbc {

template <class T>
struct Skew {
  T largest;     // |a_ij|
  T difference;  // |a_ij - a_ji|
};

// matrix: [d, d], all entries finite.
template <class T>
Skew<T> measure_skew(const T* matrix, int64_t d, int threads);

}  // namespace sbc
