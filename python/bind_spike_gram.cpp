#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <vector>

#include "bind.h"
#include "spike_gram/spike_gram.h"
#include "tensor.h"

namespace py = pybind11;

namespace sbc::python {
namespace {

// Returns (integral, minimum, maximum).
py::tuple narrow_spikes(const py::object& spikes, const py::object& to, int threads) {
  const Tensor from(spikes, "spikes"), narrow(to, "to", Access::write);
  from.expect(from.dtype().c_str(), {-1, -1, -1});
  const int64_t outer = from.size(0), C = from.size(1), P = from.size(2);
  narrow.expect("int8", {outer, P, C});
  NarrowResult result{};
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    py::gil_scoped_release unlocked;
    result = sbc::narrow_spikes<T>(from.data<T>(), outer, C, P, narrow.data<int8_t>(), threads);
  };
  const std::string& dtype = from.dtype();
  if (dtype == "bool")
    run(uint8_t{});  // a byte of 0 or 1
  else if (dtype == "uint8")
    run(uint8_t{});
  else if (dtype == "int8")
    run(int8_t{});
  else if (dtype == "uint16")
    run(uint16_t{});
  else if (dtype == "int16")
    run(int16_t{});
  else if (dtype == "uint32")
    run(uint32_t{});
  else if (dtype == "int32")
    run(int32_t{});
  else if (dtype == "uint64")
    run(uint64_t{});
  else if (dtype == "int64")
    run(int64_t{});
  else if (dtype == "float32")
    run(float{});
  else if (dtype == "float64")
    run(double{});
  else
    throw py::type_error("spikes is " + dtype + "; accepted are bool, integers, float32, float64");
  return py::make_tuple(result.integral, result.minimum, result.maximum);
}

void spike_gram(const py::object& spikes, int64_t first_channel, int64_t channels,
                const std::optional<py::object>& pair_weights,
                const std::optional<py::object>& matched_filter, int lane_bytes, int planes,
                int digits, bool is_signed, bool squared, int64_t max_term, bool triangle,
                double finish, const std::vector<py::object>& positions,
                const std::vector<py::object>& neighbours, const std::vector<py::object>& sums,
                const std::string& isa, int threads) {
  const Tensor x(spikes, "spikes");
  x.expect("int8", {-1, -1, -1, -1});
  GramParams params{};
  params.spikes = x.data<int8_t>();
  params.T = x.size(0), params.N = x.size(1), params.P = x.size(2), params.C = x.size(3);
  params.first_channel = first_channel, params.channels = channels;
  std::vector<std::unique_ptr<Tensor>> alive;
  if (pair_weights.has_value() == matched_filter.has_value()) {
    throw std::invalid_argument("either pair_weights or matched_filter is to be given");
  }
  if (pair_weights) {
    const Tensor& weights =
        *alive.emplace_back(std::make_unique<Tensor>(*pair_weights, "pair_weights"));
    weights.expect("float64", {params.T, params.T});
    params.pair_weights = weights.data<double>();
    lane_bytes = planes = 1, digits = 0, is_signed = squared = false, max_term = 1;
  } else {
    const Tensor& filter =
        *alive.emplace_back(std::make_unique<Tensor>(*matched_filter, "matched_filter"));
    filter.expect("int64", {params.T, params.T});
    params.matched_filter = filter.data<int64_t>();
  }
  params.lane_bytes = lane_bytes;
  params.planes = planes, params.digits = digits;
  params.is_signed = is_signed, params.squared = squared;
  params.max_term = max_term;
  params.triangle = triangle, params.finish = finish;
  if (first_channel < 0 || channels < 1 || first_channel + channels > params.C) {
    throw std::invalid_argument("first_channel and channels leave spikes' last axis");
  }
  if (positions.size() != neighbours.size() || positions.size() != sums.size()) {
    throw std::invalid_argument("positions, neighbours and sums differ in length");
  }
  if (planes < 1 || planes > 8 || digits < 0 || digits > 8 || max_term < 1 || threads < 1) {
    throw std::invalid_argument("planes, digits, max_term or threads is out of range");
  }
  std::vector<GramRegion> regions;
  for (size_t r = 0; r < positions.size(); ++r) {
    const Tensor& where = *alive.emplace_back(std::make_unique<Tensor>(positions[r], "positions"));
    const Tensor& around =
        *alive.emplace_back(std::make_unique<Tensor>(neighbours[r], "neighbours"));
    const Tensor& out =
        *alive.emplace_back(std::make_unique<Tensor>(sums[r], "sums", Access::write));
    where.expect("int32", {-1});
    around.expect("int32", {-1, params.P});
    out.expect("float64", {around.size(0), channels, channels});
    for (int64_t i = 0; i < where.count(); ++i) {
      if (where.data<int32_t>()[i] < 0 || where.data<int32_t>()[i] >= params.P) {
        throw std::invalid_argument("positions leave the map");
      }
    }
    for (int64_t i = 0; i < around.count(); ++i) {
      if (around.data<int32_t>()[i] >= params.P)
        throw std::invalid_argument("neighbours leave the map");
    }
    if (where.count() == 0 || around.count() == 0) continue;
    regions.push_back({where.data<int32_t>(), where.count(), around.data<int32_t>(), around.size(0),
                       out.data<double>()});
  }
  params.regions = regions.data();
  params.num_regions = static_cast<int64_t>(regions.size());
  const Isa which = parse_isa(isa);
  if (finish != 0 && !(triangle && (by_bytes(params) || by_counts(params, which)))) {
    throw std::invalid_argument("finish is for a triangle, by bytes or by counts");
  }
  py::gil_scoped_release unlocked;
  sbc::spike_gram(params, which, threads);
}

// blocks: a list of int32 [num_blocks, 3] beside the list of sums.
void assemble_conv(const std::vector<py::object>& sums, const std::vector<py::object>& blocks,
                   double factor, const py::object& matrix, int threads) {
  const Tensor square(matrix, "matrix", Access::write);
  square.expect("float64", {-1, -1, -1, -1});
  const int64_t channels = square.size(0), taps = square.size(1);
  square.expect("float64", {channels, taps, channels, taps});
  if (sums.size() != blocks.size() || threads < 1) {
    throw std::invalid_argument("sums and blocks differ in length, or threads is out of range");
  }
  std::vector<std::unique_ptr<Tensor>> alive;
  std::vector<ConvRegion> regions;
  for (size_t r = 0; r < sums.size(); ++r) {
    const Tensor& sum = *alive.emplace_back(std::make_unique<Tensor>(sums[r], "sums"));
    const Tensor& which = *alive.emplace_back(std::make_unique<Tensor>(blocks[r], "blocks"));
    sum.expect("float64", {-1, channels, channels});
    which.expect("int32", {-1, 3});
    for (int64_t i = 0; i < which.count(); ++i) {
      const int64_t value = which.data<int32_t>()[i], end = i % 3 == 0 ? sum.size(0) : taps;
      if (value < 0 || value >= end) throw std::invalid_argument("blocks name no shift or tap");
    }
    regions.push_back({sum.data<double>(), which.data<int32_t>(), which.size(0)});
  }
  py::gil_scoped_release unlocked;
  sbc::assemble_conv(regions.data(), static_cast<int64_t>(regions.size()), channels, taps, factor,
                     square.data<double>(), threads);
}

void mirror_upper(const py::object& matrix, double factor, int threads) {
  const Tensor square(matrix, "matrix", Access::write);
  square.expect("float64", {-1, -1});
  square.expect("float64", {square.size(1), square.size(0)});
  py::gil_scoped_release unlocked;
  sbc::mirror_upper(square.data<double>(), square.size(0), factor, threads);
}

}  // namespace

void bind_spike_gram(py::module_& module) {
  module.def("narrow_spikes", &narrow_spikes, py::arg("spikes"), py::arg("to"), py::arg("threads"));
  module.def("assemble_conv", &assemble_conv, py::arg("sums"), py::arg("blocks"), py::arg("factor"),
             py::arg("matrix"), py::arg("threads"));
  module.def("mirror_upper", &mirror_upper, py::arg("matrix"), py::arg("factor"),
             py::arg("threads"));
  module.def("spike_gram", &spike_gram, py::arg("spikes"), py::arg("first_channel"),
             py::arg("channels"), py::arg("pair_weights"), py::arg("matched_filter"),
             py::arg("lane_bytes"), py::arg("planes"), py::arg("digits"), py::arg("is_signed"),
             py::arg("squared"), py::arg("max_term"), py::arg("triangle"), py::arg("finish"),
             py::arg("positions"), py::arg("neighbours"), py::arg("sums"), py::arg("isa"),
             py::arg("threads"));
}

}  // namespace sbc::python
