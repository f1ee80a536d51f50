// What the CUDA driver shows. The one CUDA file that every build with SBC_CUDA has.
#pragma once

#include <string>
#include <vector>

namespace sbc {

// "name (sm_90, 80 GiB)" of each device; empty without a driver or a device.
std::vector<std::string> cuda_devices();

}  // namespace sbc
