#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "bind.h"
#include "obs_quantize/obs_quantize.h"
#include "tensor.h"

namespace py = pybind11;

namespace sbc::python {
namespace {

using Optional = std::optional<py::object>;

std::unique_ptr<Tensor> take(const Optional& array, const char* name, Access access) {
  return array ? std::make_unique<Tensor>(*array, name, access) : nullptr;
}

void expect_below(const Tensor& indices, int64_t end, const char* name) {
  for (int64_t i = 0; i < indices.count(); ++i) {
    const int32_t index = indices.data<int32_t>()[i];
    if (index < 0 || index >= end)
      throw std::invalid_argument(std::string(name) + " is out of range");
  }
}

void obs_quantize(const py::object& weight, const py::object& factor, const py::object& perm,
                  int64_t block_size, int bits, const Optional& scale, const Optional& zero_point,
                  const Optional& group, const Optional& mask, int64_t num_pruned, int64_t keep_n,
                  int64_t of_m, const py::object& quantized, const Optional& codes,
                  const Optional& kept, const py::object& loss, const std::string& isa,
                  int threads) {
  const Tensor w(weight, "weight"), r(factor, "factor"), steps(perm, "perm");
  const Tensor q(quantized, "quantized", Access::write), losses(loss, "loss", Access::write);
  const auto scales = take(scale, "scale", Access::read);
  const auto zeros = take(zero_point, "zero_point", Access::read);
  const auto groups = take(group, "group", Access::read);
  const auto masked = take(mask, "mask", Access::read);
  const auto out_codes = take(codes, "codes", Access::write);
  const auto out_kept = take(kept, "kept", Access::write);
  visit_floating(w, "weight", [&](auto zero) {
    using T = decltype(zero);
    const char* dtype = w.dtype().c_str();
    w.expect(dtype, {-1, -1});
    const int64_t rows = w.size(0), d = w.size(1);
    ObsQuantizeParams<T> params{};
    params.rows = rows, params.d = d, params.block_size = block_size;
    params.weight = w.data<T>();
    r.expect(dtype, {d, d});
    params.factor = r.data<T>();
    steps.expect("int32", {d});
    expect_below(steps, d, "perm");
    params.perm = steps.data<int32_t>();
    q.expect(dtype, {rows, d});
    params.quantized = q.data<T>();
    losses.expect(dtype, {rows});
    params.loss = losses.data<T>();
    if (block_size < 1 || bits < 0 || bits > 8 || num_pruned < 0 || num_pruned > rows * d ||
        keep_n < 0 || keep_n > of_m || threads < 1) {
      throw std::invalid_argument(
          "block_size, bits, num_pruned, keep_n or threads is out of range");
    }
    params.bits = bits;
    if (bits > 0) {
      if (!scales || !zeros || !groups || !out_codes) {
        throw std::invalid_argument("bits > 0 needs scale, zero_point, group and codes");
      }
      params.groups = scales->size(1);
      scales->expect(dtype, {rows, params.groups});
      zeros->expect(dtype, {rows, params.groups});
      groups->expect("int32", {d});
      expect_below(*groups, params.groups, "group");
      out_codes->expect("uint8", {rows, d});
      params.scale = scales->data<T>();
      params.zero_point = zeros->data<T>();
      params.group = groups->data<int32_t>();
      params.codes = out_codes->data<uint8_t>();
    }
    if (masked) {
      masked->expect("uint8", {rows, d});
      params.mask = masked->data<uint8_t>();
    }
    params.num_pruned = num_pruned, params.keep_n = keep_n, params.of_m = of_m;
    if (prunes(params)) {
      if (!out_kept) throw std::invalid_argument("pruning needs kept");
      if (of_m > 0 && (d % of_m != 0 || block_size % of_m != 0)) {
        throw std::invalid_argument("of_m divides neither d nor block_size");
      }
      out_kept->expect("uint8", {rows, d});
      params.kept = out_kept->data<uint8_t>();
    }
    if (rows == 0 || d == 0) return;
    const Isa which = parse_isa(isa);
    py::gil_scoped_release unlocked;
    sbc::obs_quantize(params, which, threads);
  });
}

}  // namespace

void bind_obs_quantize(py::module_& module) {
  module.def("obs_quantize", &obs_quantize, py::arg("weight"), py::arg("factor"), py::arg("perm"),
             py::arg("block_size"), py::arg("bits"), py::arg("scale"), py::arg("zero_point"),
             py::arg("group"), py::arg("mask"), py::arg("num_pruned"), py::arg("keep_n"),
             py::arg("of_m"), py::arg("quantized"), py::arg("codes"), py::arg("kept"),
             py::arg("loss"), py::arg("isa"), py::arg("threads"));
}

}  // namespace sbc::python
