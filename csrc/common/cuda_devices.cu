#include "common/cuda_devices.h"

namespace sbc {

std::vector<std::string> cuda_devices() {
  std::vector<std::string> names;
  int count = 0;
  // Without a driver this call fails, which means that there are no devices.
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) continue;
    names.push_back(std::string(properties.name) + " (sm_" + std::to_string(properties.major) +
                    std::to_string(properties.minor) + ", " +
                    std::to_string(properties.totalGlobalMem >> 30) + " GiB)");
  }
  return names;
}

}  // namespace sbc
