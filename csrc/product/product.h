// Dense products, so that no BLAS with threads of its own has to run.
#pragma once

#include "common/isa.h"
#include "product/params.h"

namespace sbc {

// The results do not depend on `threads`. Scratch memory: the operands, or the 64 MiB at a time
// that are packed of larger ones, and a block of tiles per thread.
template <class T>
void product(const ProductParams<T>& params, Isa isa, int threads);

void add_square(const SquareParams& params, Isa isa, int threads);

}  // namespace sbc
