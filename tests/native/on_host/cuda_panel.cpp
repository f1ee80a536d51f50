// The panel of csrc as host C++: on_host/cuda_runtime.h stands for CUDA's.
#include <cuda_runtime.h>

namespace sbc {
namespace {

thread_local float4 near_lines[(227 << 10) / sizeof(float4)];  // before it is used

}  // namespace
}  // namespace sbc

#include "obs_order/cuda_panel.cu"

host_gpu::Memory host_gpu::dynamic_shared() { return {sbc::near_lines, sizeof sbc::near_lines}; }
