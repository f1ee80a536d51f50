// For CUDA files.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace sbc {

inline void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
  }
}

// Whether the device runs this kernel: there is code for it, and the driver takes it.
template <typename Kernel>
bool runs(Kernel* kernel, int device) {
  cudaFuncAttributes attributes;
  const bool has_code = cudaSetDevice(device) == cudaSuccess &&
                        cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess;
  cudaGetLastError();  // or the next to ask would be told
  return has_code;
}

}  // namespace sbc
