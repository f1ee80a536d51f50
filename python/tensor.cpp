#include "tensor.h"

#include <stdexcept>

namespace py = pybind11;

namespace sbc::python {
namespace {

constexpr const char* kLegacy = "dltensor";
constexpr const char* kVersioned = "dltensor_versioned";
constexpr uint64_t kReadOnly = 1;

// Producers of DLPack 1 accept max_version; older ones do not have this keyword.
py::object take_capsule(const py::object& array) {
  const py::object exporter = array.attr("__dlpack__");
  try {
    return exporter(py::arg("max_version") = py::make_tuple(1, 0));
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return exporter();
}

std::string dtype_name(DLDataType dtype) {
  const char* kind = dtype.code == 0   ? "int"
                     : dtype.code == 1 ? "uint"
                     : dtype.code == 2 ? "float"
                     : dtype.code == 4 ? "bfloat"
                     : dtype.code == 5 ? "complex"
                     : dtype.code == 6 ? "bool"
                                       : "unknown";
  return dtype.code == 6 ? "bool" : kind + std::to_string(dtype.bits);
}

}  // namespace

Tensor::Tensor(const py::object& array, const char* name, Access access) : name_(name) {
  if (!py::hasattr(array, "__dlpack__")) {
    throw py::type_error(std::string(name) + " is a " +
                         py::str(py::type::of(array).attr("__name__")).cast<std::string>() +
                         "; accepted is an array that exports DLPack");
  }
  capsule_ = take_capsule(array);
  if (PyCapsule_IsValid(capsule_.ptr(), kVersioned)) {
    auto* managed =
        static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule_.ptr(), kVersioned));
    if (managed->version.major != 1)
      throw std::invalid_argument(std::string(name) + " exports DLPack " +
                                  std::to_string(managed->version.major) +
                                  "; accepted are versions 0 and 1");
    dl_ = &managed->dl_tensor;
    if (access == Access::write && (managed->flags & kReadOnly) != 0) fail("a writable array");
  } else if (PyCapsule_IsValid(capsule_.ptr(), kLegacy)) {
    dl_ = &static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule_.ptr(), kLegacy))->dl_tensor;
  } else {
    throw py::type_error(std::string(name) + " exports no DLPack tensor");
  }
  // The capsule keeps its name, so that its own destructor frees the tensor together with this
  // view.
  dtype_ = dtype_name(dl_->dtype);
  if (dl_->dtype.lanes != 1) fail("an array of scalars");
  if (dl_->device.device_type != 1) {
    fail("an array in CPU memory, not on DLPack device type " +
         std::to_string(dl_->device.device_type));
  }
  int64_t compact = 1;
  for (int dim = dl_->ndim - 1; dim >= 0 && dl_->strides != nullptr; --dim) {
    if (dl_->shape[dim] != 1 && dl_->strides[dim] != compact && count() > 0) {
      fail("a row-major array without gaps");
    }
    compact *= dl_->shape[dim];
  }
}

int64_t Tensor::count() const {
  int64_t product = 1;
  for (int dim = 0; dim < dl_->ndim; ++dim) product *= dl_->shape[dim];
  return product;
}

void Tensor::expect(const char* dtype, std::initializer_list<int64_t> shape) const {
  bool same = dtype_ == dtype && static_cast<int64_t>(shape.size()) == ndim();
  int dim = 0;
  std::string wanted;
  for (int64_t extent : shape) {
    if (same && extent >= 0 && size(dim) != extent) same = false;
    wanted += (dim++ > 0 ? ", " : "") + (extent < 0 ? std::string("any") : std::to_string(extent));
  }
  if (!same) fail(std::string(dtype) + " [" + wanted + "]");
}

std::string Tensor::describe() const {
  std::string text = dtype_ + " [";
  for (int dim = 0; dim < dl_->ndim; ++dim)
    text += (dim > 0 ? ", " : "") + std::to_string(size(dim));
  return text + "]";
}

void Tensor::fail(const std::string& accepted) const {
  throw std::invalid_argument(std::string(name_) + " is " + describe() + "; accepted is " +
                              accepted);
}

}  // namespace sbc::python
