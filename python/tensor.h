// Arrays of any framework, borrowed through DLPack for the duration of one call.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "dlpack_abi.h"

namespace sbc::python {

enum class Access { read, write };

// A checked view of an array in CPU memory, row-major without gaps. It holds the producer's
// capsule, so the memory lives at least as long as the view.
class Tensor {
 public:
  // Throws std::invalid_argument or pybind11::type_error, with `name`, what was given and what is
  // accepted.
  Tensor(const pybind11::object& array, const char* name, Access access = Access::read);
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  int64_t ndim() const { return dl_->ndim; }
  int64_t size(int dim) const { return dl_->shape[dim]; }
  int64_t count() const;
  const std::string& dtype() const { return dtype_; }

  // Throws unless dtype and shape are these; a negative extent matches any.
  void expect(const char* dtype, std::initializer_list<int64_t> shape) const;

  template <class T>
  T* data() const {
    return reinterpret_cast<T*>(static_cast<char*>(dl_->data) + dl_->byte_offset);
  }

 private:
  [[noreturn]] void fail(const std::string& accepted) const;
  std::string describe() const;

  const char* name_;
  pybind11::object capsule_;
  DLTensor* dl_ = nullptr;
  std::string dtype_;
};

// Calls visit(float{}) or visit(double{}), by the tensor's dtype.
template <class Visit>
void visit_floating(const Tensor& tensor, const char* name, Visit visit) {
  if (tensor.dtype() == "float32") {
    visit(float{});
  } else if (tensor.dtype() == "float64") {
    visit(double{});
  } else {
    throw pybind11::type_error(std::string(name) + " is " + tensor.dtype() +
                               "; accepted are float32 and float64");
  }
}

}  // namespace sbc::python
