#include "product/product.h"

#include "common/aligned.h"
#include "common/integers.h"
#include "common/threads.h"
#include "product/cpu.h"

namespace sbc {
namespace {

// Terms that are packed at a time: all of them, or what fits into kKeptBytes.
template <class T>
int64_t packed_depth(int64_t k, int64_t width) {
  constexpr int64_t kLeast = 384;
  const int64_t fit = static_cast<int64_t>(kKeptBytes / sizeof(T)) / std::max<int64_t>(1, width);
  return std::max<int64_t>(1, std::min(k, std::max(kLeast, fit)));
}

}  // namespace

template <class T>
void product(const ProductParams<T>& params, Isa isa, int threads) {
  const auto pack_columns = SBC_SELECT_ISA(isa, pack_columns<T>);
  const auto pack_rows = SBC_SELECT_ISA(isa, pack_rows<T>);
  const auto multiply = SBC_SELECT_ISA(isa, multiply_block<T>);
  const int64_t side = SBC_SELECT_ISA(isa, product_tile_side<T>)();
  const int64_t block_tiles = SBC_SELECT_ISA(isa, product_block_tiles<T>)();
  const int64_t m = params.m, k = params.k, n = params.n;
  if (k == 0) std::fill_n(params.out, m * n, T(0));
  threads = useful_threads(static_cast<double>(m) * static_cast<double>(n) * k, threads);
  const int64_t high = ceil_div(m, side), wide = ceil_div(n, side);
  const int64_t high_blocks = ceil_div(high, block_tiles),
                wide_blocks = ceil_div(wide, block_tiles);
  const int64_t depth = packed_depth<T>(k, (high + wide) * side);
  const AlignedArray<T> left = aligned_array<T>(high * side * depth);
  const AlignedArray<T> right = aligned_array<T>(wide * side * depth);
  const int64_t elements = block_tiles * block_tiles * side * side;
  const AlignedArray<T> scratch = aligned_array<T>(threads * elements);
  for (int64_t first = 0; first < k; first += depth) {
    const int64_t terms = std::min(depth, k - first);
    parallel_for(high + wide, threads, [&](int64_t panel, int) {
      if (panel < high) {
        pack_rows(params.left, m, k, panel * side, first, terms, left.get() + panel * side * terms);
      } else {
        panel -= high;
        pack_columns(params.right, n, panel * side, first, terms,
                     right.get() + panel * side * terms);
      }
    });
    parallel_for(high_blocks * wide_blocks, threads, [&](int64_t task, int worker) {
      const int64_t i = task / wide_blocks * block_tiles, j = task % wide_blocks * block_tiles;
      multiply(params,
               {left.get(), right.get(), first, terms, i, std::min(high, i + block_tiles), j,
                std::min(wide, j + block_tiles)},
               scratch.get() + worker * elements);
    });
  }
}

void add_square(const SquareParams& params, Isa isa, int threads) {
  const auto pack_columns = SBC_SELECT_ISA(isa, pack_columns<double>);
  const auto add_block = SBC_SELECT_ISA(isa, add_square_block);
  const int64_t side = SBC_SELECT_ISA(isa, product_tile_side<double>)();
  const int64_t block_tiles = SBC_SELECT_ISA(isa, product_block_tiles<double>)();
  const int64_t k = params.k, d = params.d;
  threads = useful_threads(static_cast<double>(d) * static_cast<double>(d) / 2 * k, threads);
  const int64_t panels = ceil_div(d, side), blocks = ceil_div(panels, block_tiles);
  const int64_t depth = packed_depth<double>(k, panels * side);
  const AlignedArray<double> packed = aligned_array<double>(panels * side * depth);
  const int64_t elements = block_tiles * block_tiles * side * side;
  const AlignedArray<double> scratch = aligned_array<double>(threads * elements);
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t i = 0; i < blocks; ++i) {
    for (int64_t j = i; j < blocks; ++j) pairs.emplace_back(i * block_tiles, j * block_tiles);
  }
  for (int64_t first = 0; first < k; first += depth) {
    const int64_t terms = std::min(depth, k - first);
    parallel_for(panels, threads, [&](int64_t panel, int) {
      pack_columns(params.rows, d, panel * side, first, terms, packed.get() + panel * side * terms);
    });
    parallel_for(static_cast<int64_t>(pairs.size()), threads, [&](int64_t task, int worker) {
      const auto [i, j] = pairs[task];
      add_block(params,
                {packed.get(), packed.get(), first, terms, i, std::min(panels, i + block_tiles), j,
                 std::min(panels, j + block_tiles)},
                scratch.get() + worker * elements);
    });
  }
}

template void product<float>(const ProductParams<float>&, Isa, int);
template void product<double>(const ProductParams<double>&, Isa, int);

}  // namespace sbc
