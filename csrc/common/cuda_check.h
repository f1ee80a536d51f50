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

}  // namespace sbc
