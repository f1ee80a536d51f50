#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "bind.h"
#include "common/cuda_devices.h"
#include "obs_order/cuda_panel.h"
#include "spike_gram/bytes_cuda.h"

namespace py = pybind11;

namespace sbc::python {
namespace {

void expect_within(const char* name, int64_t value, int64_t most) {
  if (value >= 0 && value <= most) return;
  throw py::value_error(std::string(name) + " is " + std::to_string(value) +
                        "; accepted are 0 to " + std::to_string(most));
}

template <typename T>
T* pointer_to(const char* name, uintptr_t address, int alignment) {
  if (address % alignment != 0) {
    throw py::value_error(std::string(name) + " is at address " + std::to_string(address) +
                          "; accepted are multiples of " + std::to_string(alignment));
  }
  return reinterpret_cast<T*>(address);
}

void multiply_bytes(uintptr_t planes, int64_t rows, uintptr_t units, int64_t num_units,
                    uintptr_t pairs, uintptr_t partials, int64_t slots, int64_t channels,
                    int device, uintptr_t stream) {
  expect_within("rows", rows, kMostByteRows);
  expect_within("num_units", num_units, kMostByteUnits);
  expect_within("slots", slots, INT32_MAX);
  expect_within("channels", channels, INT32_MAX);
  expect_within("device", device, INT32_MAX);
  const MultiplyBytesParams params{pointer_to<const int8_t>("planes", planes, 16),
                                   rows,
                                   pointer_to<const int32_t>("units", units, 4),
                                   num_units,
                                   pointer_to<const int32_t>("pairs", pairs, 4),
                                   pointer_to<int32_t>("partials", partials, 8),
                                   slots,
                                   channels,
                                   device};
  py::gil_scoped_release unlocked;
  sbc::multiply_bytes(params, reinterpret_cast<CUstream_st*>(stream));
}

void order_panel(uintptr_t matrix, uintptr_t weight, uintptr_t diagonal, uintptr_t floor,
                 uintptr_t state, uintptr_t ids, uintptr_t lines, uintptr_t unit, uintptr_t order,
                 uintptr_t loss, int64_t rows, int64_t matrix_stride, int64_t lines_stride,
                 int64_t width, int64_t tile, int64_t side, int64_t num_pruned, int64_t m,
                 int64_t count, int64_t done, int device, uintptr_t stream) {
  expect_within("rows", rows, INT32_MAX);
  expect_within("matrix_stride", matrix_stride, INT64_MAX / INT32_MAX);
  expect_within("width", width, kMostPanelPlaces);
  expect_within("m", m, width);
  expect_within("count", count, std::min(m, kMostPanelPivots));
  expect_within("num_pruned", num_pruned, INT32_MAX);
  expect_within("done", done, num_pruned - count);
  expect_within("side", side, kMostPanelSide);
  expect_within("m, rounded up,", (m + kPanelAlign - 1) / kPanelAlign * kPanelAlign, side);
  expect_within("lines_stride", lines_stride, INT64_MAX / INT32_MAX);
  expect_within("side times count", side * count, lines_stride);
  expect_within("tile", tile, kMostPanelPlaces);
  if (side % 4 != 0 || lines_stride % 4 != 0) {
    throw py::value_error("side and lines_stride are " + std::to_string(side) + " and " +
                          std::to_string(lines_stride) + "; accepted are multiples of 4");
  }
  if ((tile & (tile - 1)) != 0 || (tile != 0 && (tile < 4 || width % tile != 0))) {
    throw py::value_error("tile is " + std::to_string(tile) + "; accepted are 0 and powers of " +
                          "two from 4 on that divide width, " + std::to_string(width));
  }
  const OrderPanelParams params{pointer_to<const float>("matrix", matrix, 4),
                                pointer_to<float>("weight", weight, 16),
                                pointer_to<float>("diagonal", diagonal, 16),
                                pointer_to<const float>("floor", floor, 16),
                                pointer_to<int32_t>("state", state, 16),
                                pointer_to<const int32_t>("ids", ids, 4),
                                pointer_to<float>("lines", lines, 16),
                                pointer_to<const float>("unit", unit, 4),
                                pointer_to<int32_t>("order", order, 4),
                                pointer_to<float>("loss", loss, 4),
                                rows,
                                matrix_stride,
                                lines_stride,
                                width,
                                tile,
                                side,
                                num_pruned,
                                m,
                                count,
                                done,
                                device};
  py::gil_scoped_release unlocked;
  sbc::order_panel(params, reinterpret_cast<CUstream_st*>(stream));
}

}  // namespace

void bind_cuda(py::module_& module) {
  module.def("cuda_devices", &sbc::cuda_devices, "Names of the CUDA devices the driver shows.");
  module.def("runs_multiply_bytes", &sbc::runs_multiply_bytes, py::arg("device"));
  module.def("runs_order_panel", &sbc::runs_order_panel, py::arg("device"));
  module.attr("most_panel_places") = kMostPanelPlaces;
  module.def("multiply_bytes", &multiply_bytes, py::arg("planes"), py::arg("rows"),
             py::arg("units"), py::arg("num_units"), py::arg("pairs"), py::arg("partials"),
             py::arg("slots"), py::arg("channels"), py::arg("device"), py::arg("stream"));
  module.def("order_panel", &order_panel, py::arg("matrix"), py::arg("weight"), py::arg("diagonal"),
             py::arg("floor"), py::arg("state"), py::arg("ids"), py::arg("lines"), py::arg("unit"),
             py::arg("order"), py::arg("loss"), py::arg("rows"), py::arg("matrix_stride"),
             py::arg("lines_stride"), py::arg("width"), py::arg("tile"), py::arg("side"),
             py::arg("num_pruned"), py::arg("m"), py::arg("count"), py::arg("done"),
             py::arg("device"), py::arg("stream"));
}

}  // namespace sbc::python
