#include "bind.h"
#include "inverse/inverse.h"
#include "tensor.h"

namespace py = pybind11;

namespace sbc::python {
namespace {

// Returns 0, or 1 + the place of a pivot that is not positive.
int64_t inverse(const py::object& matrix, const py::object& inverse, const std::string& isa,
                int threads) {
  const Tensor a(matrix, "matrix"), out(inverse, "inverse", Access::write);
  a.expect("float64", {-1, -1});
  const int64_t d = a.size(0);
  a.expect("float64", {d, d});
  out.expect("float64", {d, d});
  if (threads < 1) throw std::invalid_argument("threads < 1");
  const InverseParams params{a.data<double>(), d, out.data<double>()};
  const Isa which = parse_isa(isa);
  py::gil_scoped_release unlocked;
  return sbc::inverse(params, which, threads);
}

}  // namespace

void bind_inverse(py::module_& module) {
  module.def("inverse", &inverse, py::arg("matrix"), py::arg("inverse"), py::arg("isa"),
             py::arg("threads"));
}

}  // namespace sbc::python
