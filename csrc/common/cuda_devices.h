// The devices that the CUDA driver reports.
#pragma once

#include <string>
#include <vector>

namespace sbc {

// "name (sm_90, 80 GiB)" of each device; empty without a driver or a device.
std::vector<std::string> cuda_devices();

}  // namespace sbc
