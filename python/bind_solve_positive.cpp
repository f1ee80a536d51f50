#include "bind.h"
#include "solve_positive/solve_positive.h"
#include "tensor.h"

namespace py = pybind11;

namespace sbc::python {
namespace {

// Returns 0, or 1 + the place of a pivot that is not positive.
int64_t solve_positive(const py::object& matrix, const py::object& rhs, const py::object& solution,
                       const std::string& isa, int threads) {
  const Tensor a(matrix, "matrix"), b(rhs, "rhs"), x(solution, "solution", Access::write);
  b.expect("float64", {-1, -1});
  const int64_t rows = b.size(0), d = b.size(1);
  a.expect("float64", {d, d});
  x.expect("float64", {rows, d});
  if (threads < 1) throw std::invalid_argument("threads < 1");
  const SolvePositiveParams params{a.data<double>(), b.data<double>(), rows, d, x.data<double>()};
  const Isa which = parse_isa(isa);
  py::gil_scoped_release unlocked;
  return sbc::solve_positive(params, which, threads);
}

}  // namespace

void bind_solve_positive(py::module_& module) {
  module.def("solve_positive", &solve_positive, py::arg("matrix"), py::arg("rhs"),
             py::arg("solution"), py::arg("isa"), py::arg("threads"));
}

}  // namespace sbc::python
