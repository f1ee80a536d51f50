#include "bind.h"
#include "tensor.h"
#include "upper_factor/upper_factor.h"

namespace py = pybind11;

namespace sbc::python {
namespace {

// Returns 0, or 1 + the place of a pivot that is not positive.
int64_t upper_factor(const py::object& matrix, const py::object& perm, const py::object& factor,
                     const std::string& isa, int threads) {
  const Tensor a(matrix, "matrix"), order(perm, "perm"), r(factor, "factor", Access::write);
  int64_t bad = 0;
  visit_floating(a, "matrix", [&](auto zero) {
    using T = decltype(zero);
    a.expect(a.dtype().c_str(), {-1, -1});
    const int64_t d = a.size(0);
    a.expect(a.dtype().c_str(), {d, d});
    r.expect(a.dtype().c_str(), {d, d});
    order.expect("int32", {d});
    for (int64_t i = 0; i < d; ++i) {
      const int32_t place = order.data<int32_t>()[i];
      if (place < 0 || place >= d) throw std::invalid_argument("perm leaves the matrix");
    }
    if (threads < 1) throw std::invalid_argument("threads < 1");
    const UpperFactorParams<T> params{a.data<T>(), order.data<int32_t>(), d, r.data<T>()};
    const Isa which = parse_isa(isa);
    py::gil_scoped_release unlocked;
    bad = sbc::upper_factor(params, which, threads);
  });
  return bad;
}

}  // namespace

void bind_upper_factor(py::module_& module) {
  module.def("upper_factor", &upper_factor, py::arg("matrix"), py::arg("perm"), py::arg("factor"),
             py::arg("isa"), py::arg("threads"));
}

}  // namespace sbc::python
