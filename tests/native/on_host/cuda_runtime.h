// The parts of CUDA that csrc/obs_order/cuda_panel.cu uses, for the host's compiler.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "host_gpu.h"

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ thread_local  // a thread of the host is a block; zero-initialised

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using host_gpu::blockDim;
using host_gpu::blockIdx;
using host_gpu::threadIdx;

// ---- device -------------------------------------------------------------------------------------

inline int min(int a, int b) { return a < b ? a : b; }
// Compiled with -ffp-contract=off, so that each of these rounds exactly once, as its name says.
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
template <class T>
T __ldcg(const T* from) {
  return *from;
}
inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline void __syncthreads() { host_gpu::sync_block(); }
inline uint32_t __reduce_min_sync(uint32_t /*all*/, uint32_t value) {
  return host_gpu::least_of_warp(value);
}

// ---- host ---------------------------------------------------------------------------------------

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorLaunchFailure };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrReservedSharedMemoryPerBlock,
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributePreferredSharedMemoryCarveout,
};
constexpr int cudaSharedmemCarveoutMaxShared = 100;

struct dim3 {
  dim3(unsigned x = 1) : x(x) {}
  unsigned x;
};
struct cudaFuncAttributes {
  size_t sharedSizeBytes;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  void* stream;
};

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidValue ? "invalid argument" : "launch failure";
}

inline cudaError_t cudaSetDevice(int /*device*/) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int /*device*/) {
  const host_gpu::Device& device = host_gpu::device;
  switch (which) {
    case cudaDevAttrMultiProcessorCount: *value = device.processors; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = device.shared_of_block; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = device.shared_of_processor; break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *value = device.shared_reserved; break;
  }
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel* /*kernel*/) {
  attributes->sharedSizeBytes = static_cast<size_t>(host_gpu::device.shared_static);
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* /*kernel*/, cudaFuncAttribute which, int value) {
  const int most = host_gpu::device.shared_of_block - host_gpu::device.shared_static;
  const bool fits = which != cudaFuncAttributeMaxDynamicSharedMemorySize || value <= most;
  return fits ? cudaSuccess : cudaErrorInvalidValue;
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel* /*kernel*/,
                                                          int /*threads*/, size_t /*bytes*/) {
  *blocks = host_gpu::device.resident;
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  host_gpu::Device& device = host_gpu::device;
  const host_gpu::Launch launch{config->gridDim.x, config->blockDim.x, config->dynamicSmemBytes};
  device.launch = launch;
  const int most = device.shared_of_block - device.shared_static;
  if (launch.dynamic_bytes > static_cast<size_t>(most < 0 ? 0 : most)) return cudaErrorInvalidValue;
  if (!device.runs) return cudaSuccess;
  return host_gpu::run(launch, [&] { kernel(arguments...); }) ? cudaSuccess
                                                              : cudaErrorLaunchFailure;
}
