// Emulates a GPU on the host, one launch after the other. A thread of the host runs a thread block,
// whose threads take turns from one barrier to the next, once in ascending and once in descending
// order. A read and a write that no barrier separates then happen in both orders, and one of them
// gives a wrong result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace host_gpu {

enum class Turns { kAscending, kDescending, kShuffled };

struct Launch {
  unsigned blocks = 0, threads = 0;
  size_t dynamic_bytes = 0;  // of shared memory
};

struct Device {
  // What CUDA reports about the device and the kernel; the defaults are those of an H200.
  int processors = 132;
  int shared_of_processor = 228 << 10;
  int shared_of_block = 227 << 10;
  int shared_reserved = 1 << 10;  // reserved by the system in each block
  int shared_static = 3168;       // per block, declared in the kernel
  int resident = 1;               // blocks of the kernel that are resident at the same time

  Turns turns = Turns::kAscending;
  bool runs = true;  // otherwise launches are only recorded
  int broken_barrier =
      -1;         // 0, 1: every other __syncthreads, from the first or the second, is none
  Launch launch;  // the last one
};
extern Device device;

// Of the block that this thread of the host runs. They are defined where the kernel is compiled.
struct Memory {
  void* begin;
  size_t bytes;
};
Memory dynamic_shared();

struct Index {
  unsigned x;
};
extern thread_local Index threadIdx, blockIdx, blockDim;

void sync_block();
uint32_t least_of_warp(uint32_t value);

// False if threads wait for others that have ended or wait elsewhere, or if dynamic shared memory
// was written past its end.
bool run(const Launch& launch, const std::function<void()>& kernel);

}  // namespace host_gpu
