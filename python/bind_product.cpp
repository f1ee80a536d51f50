#include "bind.h"
#include "product/product.h"
#include "tensor.h"

namespace py = pybind11;

namespace sbc::python {
namespace {

void product(const py::object& left, const py::object& right, const py::object& out,
             const std::string& isa, int threads) {
  const Tensor a(left, "left"), b(right, "right"), c(out, "out", Access::write);
  visit_floating(a, "left", [&](auto zero) {
    using T = decltype(zero);
    a.expect(a.dtype().c_str(), {-1, -1});
    const int64_t m = a.size(0), k = a.size(1);
    b.expect(a.dtype().c_str(), {k, -1});
    const int64_t n = b.size(1);
    c.expect(a.dtype().c_str(), {m, n});
    if (threads < 1) throw std::invalid_argument("threads < 1");
    const ProductParams<T> params{a.data<T>(), b.data<T>(), m, k, n, c.data<T>()};
    const Isa which = parse_isa(isa);
    py::gil_scoped_release unlocked;
    sbc::product(params, which, threads);
  });
}

void add_square(const py::object& rows, const py::object& total, const std::string& isa,
                int threads) {
  const Tensor a(rows, "rows"), sum(total, "total", Access::write);
  a.expect("float64", {-1, -1});
  const int64_t d = a.size(1);
  sum.expect("float64", {d, d});
  if (threads < 1) throw std::invalid_argument("threads < 1");
  const SquareParams params{a.data<double>(), a.size(0), d, sum.data<double>()};
  const Isa which = parse_isa(isa);
  py::gil_scoped_release unlocked;
  sbc::add_square(params, which, threads);
}

}  // namespace

void bind_product(py::module_& module) {
  module.def("product", &product, py::arg("left"), py::arg("right"), py::arg("out"), py::arg("isa"),
             py::arg("threads"));
  module.def("add_square", &add_square, py::arg("rows"), py::arg("total"), py::arg("isa"),
             py::arg("threads"));
}

}  // namespace sbc::python
