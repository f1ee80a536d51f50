// Vectors of the instruction set this file is being compiled for. Included by *cpu.cpp files only.
//
// Those files are compiled with instructions that the processor may not have. Nothing that they
// define may therefore be shared with other files: SBC_ISA names their namespace, and they use no
// inline function of the standard library, since the linker may merge it with another file's copy.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(SBC_ISA)
#error "simd.h belongs into files that are compiled once for each instruction set"
#endif

namespace sbc {
namespace SBC_ISA {

#if defined(__AVX512BW__)
constexpr int kVectorBytes = 64;
constexpr int kMicroRows = 8, kMicroVectors = 3;  // 24 of the 32 registers accumulate
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kMicroRows = 4, kMicroVectors = 3;  // 12 of 16; 3 hold the row, 1 the broadcast
#else
constexpr int kVectorBytes = 16;
constexpr int kMicroRows = 4, kMicroVectors = 2;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
static inline Vector<T> load(const void* from) {
  Vector<T> value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

template <class T>
static inline void store(void* to, Vector<T> value) {
  __builtin_memcpy(to, &value, sizeof(value));
}

// x in every lane. The compiler may drop "- 0" but not "0 +", which would turn -0 into 0.
template <class T>
static inline Vector<T> broadcast(T x) {
  return x - Vector<T>{};
}

}  // namespace SBC_ISA
}  // namespace sbc
