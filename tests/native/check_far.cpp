// Index arithmetic of large matrices: the steps of the factorisations at both ends of a matrix that
// 32-bit indices cannot address. Its first and last inputs are coupled. All that lies between them
// is zero, as untouched pages are, so that only what is written takes memory.

#include <sys/mman.h>

#include <cmath>

#include "check.h"
#include "factor/factor.h"
#include "inverse/cpu.h"
#include "obs_solve/obs_solve.h"
#include "product/cpu.h"
#include "upper_factor/cpu.h"

namespace sbc::check {
namespace {

constexpr int64_t kEnd = 8, kCoupled = 2 * kEnd;

// Zeros that take memory only where they are written.
class Sparse {
 public:
  explicit Sparse(int64_t elements) : bytes_(static_cast<size_t>(elements) * sizeof(double)) {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    madvise(memory_, bytes_, MADV_NOHUGEPAGE);
  }
  ~Sparse() { munmap(memory_, bytes_); }
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;
  double* get() const { return static_cast<double*>(memory_); }

 private:
  size_t bytes_;
  void* memory_;
};

// A = 1 but for the coupled inputs. Beyond the first and last kDiagonal inputs its diagonal is zero
// as well, and never read.
struct FarProblem {
  static constexpr int64_t kDiagonal = 300;  // more than a block
  int64_t d;
  std::vector<double> coupled;  // [kCoupled, kCoupled]
  Sparse matrix;

  FarProblem(Random& random, int64_t size)
      : d(size), coupled(positive_definite<double>(random, kCoupled)), matrix(size * size) {
    for (int64_t i = 0; i < kDiagonal; ++i) {
      matrix.get()[i * d + i] = matrix.get()[(d - 1 - i) * d + d - 1 - i] = 1;
    }
    for (int64_t i = 0; i < kCoupled; ++i) {
      for (int64_t j = 0; j < kCoupled; ++j) {
        matrix.get()[at(i) * d + at(j)] = coupled[i * kCoupled + j];
      }
    }
  }
  int64_t at(int64_t i) const { return i < kEnd ? i : d - kCoupled + i; }
};

void check_factor(const FarProblem& problem, Isa isa, Tally& tally) {
  const int64_t d = problem.d, side = SBC_SELECT_ISA(isa, factor_tile_side);
  const Sparse tiles(SBC_SELECT_ISA(isa, factor_elements)(d));
  const FactorTiles a = factor_tiles(tiles.get(), d, isa, 1);
  const int64_t last = a.blocks() - 1;
  std::vector<int32_t> perm(d);
  for (int64_t i = 0; i < d; ++i) perm[i] = static_cast<int32_t>(d - 1 - i);
  const Sparse factor(d * d);
  const UpperFactorParams<double> upper{problem.matrix.get(), perm.data(), d, factor.get()};
  const auto at_both_ends = [&](auto row) {
    for (int64_t it = 0; it < a.block_tiles; ++it) row(it);
    for (int64_t it = last * a.block_tiles; it < a.tiles; ++it) row(it);
  };
  {
    Case test(tally, join("gathered both ways, d ", d));
    at_both_ends([&](int64_t it) {
      SBC_SELECT_ISA(isa, gather_tile_row<double>)(upper, it, a.data);
      const double corner = a.data[(it * a.tiles - it * (it - 1) / 2) * side * side];
      SBC_SELECT_ISA(isa, gather_upper_row<double>)(problem.matrix.get(), a, it);
      test.expect(a.data[(it * a.tiles - it * (it - 1) / 2) * side * side] == corner,
                  join("not the same at tile row ", it));
    });
  }
  const auto factor_diagonal = SBC_SELECT_ISA(isa, factor_diagonal_block);
  {
    Case test(tally, join("factor, d ", d));
    test.expect(factor_diagonal(a, 0) == -1, "the first block has a bad pivot");
    SBC_SELECT_ISA(isa, solve_factor_block)(a, 0, last);
    SBC_SELECT_ISA(isa, update_factor_block)(a, last, last);
    test.expect(factor_diagonal(a, last) == -1, "the last block has a bad pivot");
    for (int64_t i = 0; i < kCoupled; ++i) {
      const int64_t it = problem.at(i) / side;
      if (i == 0 || it != problem.at(i - 1) / side) {
        SBC_SELECT_ISA(isa, scatter_tile_row<double>)(upper, it, a.data);
      }
    }
    const auto u = [&](int64_t i, int64_t j) {
      return factor.get()[(d - 1 - problem.at(j)) * d + d - 1 - problem.at(i)];
    };
    for (int64_t i = 0; i < kCoupled; ++i) {
      for (int64_t j = 0; j < kCoupled; ++j) {
        double sum = -problem.coupled[i * kCoupled + j];
        for (int64_t k = 0; k < kCoupled; ++k) sum += u(k, i) * u(k, j);
        test.within(std::abs(sum), rounding<double>(100), join("U'U at ", i, ", ", j));
      }
    }
  }
  Case test(tally, join("inverse, d ", d));
  const Sparse inverse(d * d), copy(SBC_SELECT_ISA(isa, inverse_column_elements)(a)),
      scratch(SBC_SELECT_ISA(isa, inverse_block_elements)(a));
  const InverseParams params{problem.matrix.get(), d, inverse.get()};
  for (const int64_t row : {int64_t{0}, last}) {
    SBC_SELECT_ISA(isa, copy_factor_column)(a, row, copy.get());
    for (const int64_t column : {int64_t{0}, last}) {
      if (column <= row) SBC_SELECT_ISA(isa, invert_factor_block)(a, row, column, copy.get());
    }
  }
  for (const int64_t row : {int64_t{0}, last}) {
    SBC_SELECT_ISA(isa, multiply_inverse_block)(params, a, row, last, scratch.get());
  }
  SBC_SELECT_ISA(isa, multiply_inverse_block)(params, a, 0, 0, scratch.get());
  for (int64_t i = 0; i < kCoupled; ++i) {
    for (int64_t j = 0; j < kCoupled; ++j) {
      double sum = i == j ? -1 : 0;
      for (int64_t k = 0; k < kCoupled; ++k) {
        sum += problem.coupled[i * kCoupled + k] * inverse.get()[problem.at(k) * d + problem.at(j)];
      }
      test.within(std::abs(sum), rounding<double>(1000), join("A G at ", i, ", ", j));
    }
  }
}

// The coupled inputs are all that one row keeps.
void check_subset(const FarProblem& problem, Isa isa, Tally& tally) {
  const int64_t d = problem.d;
  std::vector<double> rhs(d, 0.0), solution(d, kNaN<double>);
  std::vector<uint8_t> select(d, 0);
  for (int64_t i = 0; i < kCoupled; ++i) {
    rhs[problem.at(i)] = static_cast<double>(i) - 4;
    select[problem.at(i)] = 1;
  }
  int32_t failed = -1;
  obs_solve(ObsSolveParams<double>{problem.matrix.get(), rhs.data(), select.data(), 1, d,
                                   solution.data(), &failed},
            isa, 1);
  Case test(tally, join("obs_solve, d ", d));
  test.expect(failed == 0, "it failed");
  for (int64_t i = 0; i < kCoupled; ++i) {
    double sum = -rhs[problem.at(i)];
    for (int64_t k = 0; k < kCoupled; ++k) {
      sum += problem.coupled[i * kCoupled + k] * solution[problem.at(k)];
    }
    test.within(std::abs(sum), rounding<double>(10000), join("A x at ", i));
  }
}

// The last tile of a product as large as the matrix, and of a square.
void check_product_tile(const FarProblem& problem, Isa isa, Tally& tally) {
  constexpr int64_t depth = 5;
  const int64_t d = problem.d, side = SBC_SELECT_ISA(isa, product_tile_side<double>)();
  const int64_t tile = (d - 1) / side, first = d - kEnd;
  const double* matrix = problem.matrix.get();
  const Sparse rows((tile + 1) * side * depth), columns((tile + 1) * side * depth), out(d * d);
  std::vector<double> scratch(side * side);
  SBC_SELECT_ISA(isa, pack_rows<double>)(matrix, d, d, tile * side, first, depth,
                                         rows.get() + tile * side * depth);
  SBC_SELECT_ISA(isa, pack_columns<double>)(matrix, d, tile * side, first, depth,
                                            columns.get() + tile * side * depth);
  const auto expect = [&](Case& test, double factor) {
    for (int64_t i = tile * side; i < d; ++i) {
      for (int64_t j = tile * side; j < d; ++j) {
        double sum = 0;
        for (int64_t k = first; k < first + depth; ++k)
          sum += matrix[i * d + k] * matrix[k * d + j];
        test.within(std::abs(out.get()[i * d + j] - factor * sum), rounding<double>(100),
                    join("at ", i, ", ", j));
      }
    }
  };
  {
    Case test(tally, join("product, d ", d));
    const ProductBlock<double> block{rows.get(), columns.get(), 0,    depth,
                                     tile,       tile + 1,      tile, tile + 1};
    SBC_SELECT_ISA(isa, multiply_block<double>)({matrix, matrix, d, d, d, out.get()}, block,
                                                scratch.data());
    expect(test, 1);
  }
  Case test(tally, join("square, d ", d));
  const ProductBlock<double> block{columns.get(), columns.get(), 0,    depth,
                                   tile,          tile + 1,      tile, tile + 1};
  SBC_SELECT_ISA(isa, add_square_block)({matrix, d, d, out.get()}, block, scratch.data());
  expect(test, 2);
}

}  // namespace

void check_far(Isa isa, bool quick, Tally& tally) {
  Random random(9);
  // The entries of the first pass 2^30; those of the second, and of its triangle, 2^31.
  for (const int64_t d : {int64_t{32768}, int64_t{65600}}) {
    if (quick && d > 32768) continue;
    const FarProblem problem(random, d);
    check_factor(problem, isa, tally);
    check_subset(problem, isa, tally);
    check_product_tile(problem, isa, tally);
  }
}

}  // namespace sbc::check
