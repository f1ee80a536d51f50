// Scalar functions that compile to one instruction, for code that must not call the C++ library.
#pragma once

namespace sbc {
namespace SBC_ISA {

static inline float square_root(float x) { return __builtin_sqrtf(x); }
static inline double square_root(double x) { return __builtin_sqrt(x); }

}  // namespace SBC_ISA
}  // namespace sbc
