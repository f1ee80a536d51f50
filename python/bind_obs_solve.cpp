#include "bind.h"
#include "obs_solve/obs_solve.h"
#include "tensor.h"

namespace py = pybind11;

namespace sbc::python {
namespace {

void obs_solve(const py::object& matrix, const py::object& rhs, const py::object& select,
               bool multiply, const py::object& solution, const py::object& failed,
               const std::string& isa, int threads) {
  const Tensor a(matrix, "matrix"), b(rhs, "rhs"), chosen(select, "select");
  const Tensor x(solution, "solution", Access::write), flags(failed, "failed", Access::write);
  visit_floating(b, "rhs", [&](auto zero) {
    using T = decltype(zero);
    b.expect(b.dtype().c_str(), {-1, -1});
    const int64_t rows = b.size(0), d = b.size(1);
    a.expect(b.dtype().c_str(), {d, d});
    chosen.expect("uint8", {rows, d});
    x.expect(b.dtype().c_str(), {rows, d});
    flags.expect("int32", {rows});
    if (threads < 1) throw std::invalid_argument("threads < 1");
    const ObsSolveParams<T> params{a.data<T>(), b.data<T>(), chosen.data<uint8_t>(), rows,
                                   d,           x.data<T>(), flags.data<int32_t>(),  multiply};
    const Isa which = parse_isa(isa);
    py::gil_scoped_release unlocked;
    sbc::obs_solve(params, which, threads);
  });
}

}  // namespace

void bind_obs_solve(py::module_& module) {
  module.def("obs_solve", &obs_solve, py::arg("matrix"), py::arg("rhs"), py::arg("select"),
             py::arg("multiply"), py::arg("solution"), py::arg("failed"), py::arg("isa"),
             py::arg("threads"));
}

}  // namespace sbc::python
