#include "bind.h"
#include "common/symmetry.h"
#include "tensor.h"

namespace py = pybind11;

namespace sbc::python {
namespace {

// Returns (largest |a_ij|, largest |a_ij - a_ji|).
py::tuple measure_skew(const py::object& matrix, int threads) {
  const Tensor a(matrix, "matrix");
  a.expect(a.dtype().c_str(), {-1, -1});
  a.expect(a.dtype().c_str(), {a.size(1), a.size(0)});
  py::tuple answer;
  visit_floating(a, "matrix", [&](auto zero) {
    using T = decltype(zero);
    Skew<T> skew{};
    {
      py::gil_scoped_release unlocked;
      skew = sbc::measure_skew(a.data<T>(), a.size(0), threads);
    }
    answer = py::make_tuple(skew.largest, skew.difference);
  });
  return answer;
}

}  // namespace

void bind_common(py::module_& module) {
  module.def("measure_skew", &measure_skew, py::arg("matrix"), py::arg("threads"));
}

}  // namespace sbc::python
