// Compiles csrc/obs_order/cuda_panel.cu as host C++; on_host/cuda_runtime.h replaces CUDA's header.
#include <cuda_runtime.h>

namespace sbc {
namespace {

thread_local float4 near_lines[(227 << 10) / sizeof(float4)];  // must be declared before its use

}  // namespace
}  // namespace sbc

#include "obs_order/cuda_panel.cu"

host_gpu::Memory host_gpu::dynamic_shared() { return {sbc::near_lines, sizeof sbc::near_lines}; }
