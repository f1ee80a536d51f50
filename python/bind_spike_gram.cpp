#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <vector>

#include "bind.h"
#include "spike_gram/bytes.h"
#include "spike_gram/counts.h"
#include "spike_gram/layout.h"
#include "spike_gram/tables.h"
#include "tensor.h"

namespace py = pybind11;

namespace sbc::python {
namespace {

// Returns (integral, minimum, maximum). Without `to` bytes are only looked through.
py::tuple narrow_spikes(const py::object& spikes, const std::optional<py::object>& to,
                        int threads) {
  const Tensor from(spikes, "spikes");
  from.expect(from.dtype().c_str(), {-1, -1, -1});
  const int64_t outer = from.size(0), C = from.size(1), P = from.size(2);
  std::optional<Tensor> narrow;
  if (to) {
    narrow.emplace(*to, "to", Access::write);
    narrow->expect("int8", {outer, P, C});
  }
  NarrowResult result{};
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    if (!narrow && sizeof(T) > 1) throw std::invalid_argument("to is None; spikes are no bytes");
    py::gil_scoped_release unlocked;
    int8_t* bytes = narrow ? narrow->data<int8_t>() : nullptr;
    result = sbc::narrow_spikes<T>(from.data<T>(), outer, C, P, bytes, threads);
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

// Returns (integral, minimum, maximum, largest, misfit).
py::tuple narrow_multiples(const py::object& spikes, const py::object& to, double unit,
                           int threads) {
  const Tensor from(spikes, "spikes");
  from.expect(from.dtype().c_str(), {-1, -1, -1});
  const int64_t outer = from.size(0), C = from.size(1), P = from.size(2);
  Tensor narrow(to, "to", Access::write);
  narrow.expect("int8", {outer, P, C});
  if (from.dtype() != "float32" && from.dtype() != "float64") {
    throw py::type_error("spikes is " + from.dtype() + "; accepted are float32 and float64");
  }
  MultiplesResult result{};
  {
    py::gil_scoped_release unlocked;
    int8_t* bytes = narrow.data<int8_t>();
    result = from.dtype() == "float32"
                 ? sbc::narrow_multiples(from.data<float>(), outer, C, P, unit, bytes, threads)
                 : sbc::narrow_multiples(from.data<double>(), outer, C, P, unit, bytes, threads);
  }
  return py::make_tuple(result.integral, result.minimum, result.maximum, result.largest,
                        result.misfit);
}

// What every algorithm gets, kept alive while the kernel runs.
class Input {
 public:
  Input(const py::object& spikes, int64_t groups, bool triangle,
        const std::vector<py::object>& positions, const std::vector<py::object>& neighbours,
        const std::vector<py::object>& sums, GramInput& input)
      : input_(input) {
    const Tensor& x = hold(spikes, "spikes");
    x.expect("int8", {-1, -1, -1, -1});
    input.spikes = x.data<int8_t>();
    input.T = x.size(0), input.N = x.size(1), input.P = x.size(2), input.C = x.size(3);
    if (groups < 1 || input.C < 1 || input.C % groups != 0) {
      throw std::invalid_argument("spikes' last axis is no multiple of groups");
    }
    input.groups = groups, input.channels = input.C / groups;
    input.triangle = triangle;
    if (positions.size() != neighbours.size() || positions.size() != sums.size()) {
      throw std::invalid_argument("positions, neighbours and sums differ in length");
    }
    for (size_t r = 0; r < positions.size(); ++r) {
      add_region(positions[r], neighbours[r], sums[r]);
    }
    input.regions = regions_.data();
    input.num_regions = static_cast<int64_t>(regions_.size());
    if (triangle && (groups != 1 || regions_.size() > 1 ||
                     (regions_.size() == 1 && regions_[0].num_shifts != 1))) {
      throw std::invalid_argument("triangle is for one group, region and shift");
    }
  }

  // [T, T], of the algorithm's own.
  template <class T>
  const T* times(const py::object& matrix, const char* name) {
    const Tensor& values = hold(matrix, name);
    values.expect(std::is_same_v<T, double> ? "float64" : "int64", {input_.T, input_.T});
    return values.template data<T>();
  }

 private:
  const Tensor& hold(const py::object& array, const char* name, Access access = Access::read) {
    return *alive_.emplace_back(std::make_unique<Tensor>(array, name, access));
  }

  void add_region(const py::object& positions, const py::object& neighbours,
                  const py::object& sums) {
    const Tensor& where = hold(positions, "positions");
    const Tensor& around = hold(neighbours, "neighbours");
    const Tensor& out = hold(sums, "sums", Access::write);
    where.expect("int32", {-1});
    around.expect("int32", {-1, input_.P});
    out.expect("float64", {input_.groups, around.size(0), input_.channels, input_.channels});
    for (int64_t i = 0; i < where.count(); ++i) {
      if (where.data<int32_t>()[i] < 0 || where.data<int32_t>()[i] >= input_.P) {
        throw std::invalid_argument("positions leave the map");
      }
    }
    for (int64_t i = 0; i < around.count(); ++i) {
      if (around.data<int32_t>()[i] >= input_.P)
        throw std::invalid_argument("neighbours leave the map");
    }
    if (where.count() == 0 || around.count() == 0) return;
    regions_.push_back({where.data<int32_t>(), where.count(), around.data<int32_t>(),
                        around.size(0), out.data<double>()});
  }

  GramInput& input_;
  std::vector<std::unique_ptr<Tensor>> alive_;
  std::vector<GramRegion> regions_;
};

void require(bool good, const char* what) {
  if (!good) throw std::invalid_argument(what);
}

// One function an algorithm: its own parameters beside what Input takes.
void gram_tables(const py::object& spikes, int64_t groups, bool triangle,
                 const py::object& matched_filter, int lane_bytes, int planes, bool is_signed,
                 int64_t max_term, const std::vector<py::object>& positions,
                 const std::vector<py::object>& neighbours, const std::vector<py::object>& sums,
                 const std::string& isa, int threads) {
  TablesParams params{};
  Input input(spikes, groups, triangle, positions, neighbours, sums, params);
  params.matched_filter = input.times<int64_t>(matched_filter, "matched_filter");
  params.lane_bytes = lane_bytes, params.planes = planes;
  params.is_signed = is_signed, params.max_term = max_term;
  require(lane_bytes == 1 || lane_bytes == 2 || lane_bytes == 4 || lane_bytes == 8,
          "lane_bytes is none of 1, 2, 4 and 8");
  require(planes >= 1 && planes <= 8 && max_term >= 1 && threads >= 1,
          "planes, max_term or threads is out of range");
  const Isa which = parse_isa(isa);
  py::gil_scoped_release unlocked;
  sbc::gram_tables(params, which, threads);
}

void gram_pair_tables(const py::object& spikes, int64_t groups, bool triangle,
                      const py::object& pair_weights, const std::vector<py::object>& positions,
                      const std::vector<py::object>& neighbours,
                      const std::vector<py::object>& sums, const std::string& isa, int threads) {
  PairTablesParams params{};
  Input input(spikes, groups, triangle, positions, neighbours, sums, params);
  params.pair_weights = input.times<double>(pair_weights, "pair_weights");
  require(threads >= 1, "threads is out of range");
  const Isa which = parse_isa(isa);
  py::gil_scoped_release unlocked;
  sbc::gram_pair_tables(params, which, threads);
}

void gram_counts(const py::object& spikes, int64_t groups, bool triangle,
                 const py::object& pair_weights, double finish,
                 const std::vector<py::object>& positions,
                 const std::vector<py::object>& neighbours, const std::vector<py::object>& sums,
                 const std::string& isa, int threads) {
  CountsParams params{};
  Input input(spikes, groups, triangle, positions, neighbours, sums, params);
  params.pair_weights = input.times<double>(pair_weights, "pair_weights");
  params.finish = finish;
  require(triangle && params.num_regions == 1, "counts are for a triangle and one region");
  require(threads >= 1, "threads is out of range");
  const Isa which = parse_isa(isa);
  py::gil_scoped_release unlocked;
  sbc::gram_counts(params, which, threads);
}

void gram_bytes(const py::object& spikes, int64_t groups, bool triangle, const py::object& filter,
                int digits, bool is_signed, bool squared, int64_t max_term, double finish,
                const std::vector<py::object>& positions, const std::vector<py::object>& neighbours,
                const std::vector<py::object>& sums, const std::string& isa, int threads) {
  BytesParams params{};
  Input input(spikes, groups, triangle, positions, neighbours, sums, params);
  params.filter = input.times<int64_t>(filter, "filter");
  params.digits = digits, params.is_signed = is_signed, params.squared = squared;
  params.max_term = max_term, params.finish = finish;
  require(digits >= 1 && digits <= 8 && max_term >= 1 && threads >= 1,
          "digits, max_term or threads is out of range");
  require(finish == 0 || triangle, "finish is for a triangle");
  const Isa which = parse_isa(isa);
  py::gil_scoped_release unlocked;
  sbc::gram_bytes(params, which, threads);
}

// blocks: a list of int32 [num_blocks, 3] beside the list of sums.
void assemble_conv(const std::vector<py::object>& sums, const std::vector<py::object>& blocks,
                   double factor, const py::object& matrix, int threads) {
  const Tensor squares(matrix, "matrix", Access::write);
  squares.expect("float64", {-1, -1, -1, -1, -1});
  const int64_t groups = squares.size(0), channels = squares.size(1), taps = squares.size(2);
  squares.expect("float64", {groups, channels, taps, channels, taps});
  if (sums.size() != blocks.size() || threads < 1) {
    throw std::invalid_argument("sums and blocks differ in length, or threads is out of range");
  }
  std::vector<std::unique_ptr<Tensor>> alive;
  std::vector<ConvRegion> regions;
  for (size_t r = 0; r < sums.size(); ++r) {
    const Tensor& sum = *alive.emplace_back(std::make_unique<Tensor>(sums[r], "sums"));
    const Tensor& which = *alive.emplace_back(std::make_unique<Tensor>(blocks[r], "blocks"));
    sum.expect("float64", {groups, -1, channels, channels});
    which.expect("int32", {-1, 3});
    for (int64_t i = 0; i < which.count(); ++i) {
      const int64_t value = which.data<int32_t>()[i], end = i % 3 == 0 ? sum.size(1) : taps;
      if (value < 0 || value >= end) throw std::invalid_argument("blocks name no shift or tap");
    }
    regions.push_back({sum.data<double>(), sum.size(1), which.data<int32_t>(), which.size(0)});
  }
  py::gil_scoped_release unlocked;
  sbc::assemble_conv(regions.data(), static_cast<int64_t>(regions.size()), groups, channels, taps,
                     factor, squares.data<double>(), threads);
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
  module.def("narrow_multiples", &narrow_multiples, py::arg("spikes"), py::arg("to"),
             py::arg("unit"), py::arg("threads"));
  module.def("assemble_conv", &assemble_conv, py::arg("sums"), py::arg("blocks"), py::arg("factor"),
             py::arg("matrix"), py::arg("threads"));
  module.def("mirror_upper", &mirror_upper, py::arg("matrix"), py::arg("factor"),
             py::arg("threads"));
  module.def("gram_tables", &gram_tables, py::arg("spikes"), py::arg("groups"), py::arg("triangle"),
             py::arg("matched_filter"), py::arg("lane_bytes"), py::arg("planes"),
             py::arg("is_signed"), py::arg("max_term"), py::arg("positions"), py::arg("neighbours"),
             py::arg("sums"), py::arg("isa"), py::arg("threads"));
  module.def("gram_pair_tables", &gram_pair_tables, py::arg("spikes"), py::arg("groups"),
             py::arg("triangle"), py::arg("pair_weights"), py::arg("positions"),
             py::arg("neighbours"), py::arg("sums"), py::arg("isa"), py::arg("threads"));
  module.def("gram_counts", &gram_counts, py::arg("spikes"), py::arg("groups"), py::arg("triangle"),
             py::arg("pair_weights"), py::arg("finish"), py::arg("positions"),
             py::arg("neighbours"), py::arg("sums"), py::arg("isa"), py::arg("threads"));
  module.def("gram_bytes", &gram_bytes, py::arg("spikes"), py::arg("groups"), py::arg("triangle"),
             py::arg("filter"), py::arg("digits"), py::arg("is_signed"), py::arg("squared"),
             py::arg("max_term"), py::arg("finish"), py::arg("positions"), py::arg("neighbours"),
             py::arg("sums"), py::arg("isa"), py::arg("threads"));
}

}  // namespace sbc::python
