#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "bind.h"
#include "obs_select/obs_select.h"
#include "tensor.h"

namespace py = pybind11;

namespace sbc::python {
namespace {

// The quotas must admit num_kept weights, or the kernel would run out of candidates.
template <class T>
void check_quota(const ObsSelectParams<T>& params) {
  std::vector<int64_t> members(params.num_groups);
  for (int64_t i = 0; i < params.d; ++i) {
    const int32_t group = params.group[i];
    if (group < 0 || group >= params.num_groups)
      throw std::invalid_argument("group is out of range");
    ++members[group];
  }
  int64_t admitted = 0;
  for (int64_t g = 0; g < params.num_groups; ++g) {
    if (params.quota[g] < 0) throw std::invalid_argument("quota is negative");
    admitted += std::min<int64_t>(members[g], params.quota[g]);
  }
  if (admitted < params.num_kept) {
    throw std::invalid_argument("the quotas admit " + std::to_string(admitted) +
                                " kept weights a row; order holds " +
                                std::to_string(params.num_kept));
  }
}

void obs_select(const py::object& weight, const py::object& hessian,
                const std::optional<py::object>& group, const std::optional<py::object>& quota,
                const py::object& order, const py::object& gain, const py::object& failed,
                const std::string& isa, int threads) {
  const Tensor w(weight, "weight"), g(hessian, "hessian");
  const Tensor sequence(order, "order", Access::write), gains(gain, "gain", Access::write);
  const Tensor failures(failed, "failed", Access::write);
  const auto groups = group ? std::make_unique<Tensor>(*group, "group") : nullptr;
  const auto quotas = quota ? std::make_unique<Tensor>(*quota, "quota") : nullptr;
  visit_floating(w, "weight", [&](auto zero) {
    using T = decltype(zero);
    w.expect(w.dtype().c_str(), {-1, -1});
    const int64_t rows = w.size(0), d = w.size(1);
    g.expect(w.dtype().c_str(), {d, d});
    sequence.expect("int32", {rows, -1});
    const int64_t num_kept = sequence.size(1);
    gains.expect(w.dtype().c_str(), {rows, num_kept});
    failures.expect("int32", {rows});
    if (num_kept > d || threads < 1) {
      throw std::invalid_argument("order is longer than a row of weight, or threads < 1");
    }
    if (rows == 0 || num_kept == 0) return;
    ObsSelectParams<T> params{};
    params.weight = w.data<T>(), params.hessian = g.data<T>();
    params.rows = rows, params.d = d, params.num_kept = num_kept;
    params.order = sequence.data<int32_t>(), params.gain = gains.data<T>();
    params.failed = failures.data<int32_t>();
    if (groups || quotas) {
      if (!groups || !quotas) throw std::invalid_argument("group and quota come together");
      groups->expect("int32", {d});
      quotas->expect("int32", {-1});
      params.group = groups->data<int32_t>(), params.quota = quotas->data<int32_t>();
      params.num_groups = quotas->size(0);
      check_quota(params);
    }
    const Isa which = parse_isa(isa);
    py::gil_scoped_release unlocked;
    sbc::obs_select(params, which, threads);
  });
}

}  // namespace

void bind_obs_select(py::module_& module) {
  module.def("obs_select", &obs_select, py::arg("weight"), py::arg("hessian"), py::arg("group"),
             py::arg("quota"), py::arg("order"), py::arg("gain"), py::arg("failed"), py::arg("isa"),
             py::arg("threads"));
}

}  // namespace sbc::python
