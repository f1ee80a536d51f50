// Integer arithmetic for sizes.
#pragma once

#include <cstdint>

namespace sbc {

// a / b rounded up, for a >= 0 and b > 0.
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace sbc
