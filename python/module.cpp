#include "bind.h"
#include "common/isa.h"

namespace py = pybind11;

PYBIND11_MODULE(_native, module) {
  module.doc() = "Kernels of sbc_kernels. Arrays come and go through DLPack.";

  module.def(
      "available_isas",
      [] {
        py::list names;
        for (sbc::Isa isa : sbc::available_isas()) names.append(sbc::isa_name(isa));
        return names;
      },
      "Instruction sets this processor runs, slowest first.");

#if defined(SBC_WITH_CUDA)
  module.attr("with_cuda") = true;
  sbc::python::bind_cuda(module);
#else
  module.attr("with_cuda") = false;
#endif

  sbc::python::bind_common(module);
  sbc::python::bind_spike_gram(module);
  sbc::python::bind_obs_order(module);
  sbc::python::bind_obs_select(module);
  sbc::python::bind_obs_solve(module);
  sbc::python::bind_obs_quantize(module);
  sbc::python::bind_upper_factor(module);
  sbc::python::bind_inverse(module);
  sbc::python::bind_solve_positive(module);
  sbc::python::bind_product(module);
}
