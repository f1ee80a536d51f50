// Error checks for CUDA files.
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

// Whether the device can run this kernel: the binary has code for it, and the driver accepts it.
template <typename Kernel>
bool runs(Kernel* kernel, int device) {
  cudaFuncAttributes attributes;
  const bool has_code = cudaSetDevice(device) == cudaSuccess &&
                        cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess;
  cudaGetLastError();  // clears the error, which the next check would otherwise report
  return has_code;
}

}  // namespace sbc
