// One function per op, which adds the op to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace sbc::python {

void bind_common(pybind11::module_& module);
void bind_cuda(pybind11::module_& module);  // in builds with CUDA
void bind_spike_gram(pybind11::module_& module);
void bind_obs_order(pybind11::module_& module);
void bind_obs_select(pybind11::module_& module);
void bind_obs_solve(pybind11::module_& module);
void bind_obs_quantize(pybind11::module_& module);
void bind_upper_factor(pybind11::module_& module);
void bind_inverse(pybind11::module_& module);
void bind_solve_positive(pybind11::module_& module);
void bind_product(pybind11::module_& module);

}  // namespace sbc::python
