// A GPU played by the host, one launch after the other. A thread of the host runs a thread block,
// whose threads take turns from one barrier to the next: in ascending and in descending order a
// read and a write that no barrier keeps apart come both ways round, and one of them gives a wrong
// answer.
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
  // What CUDA says of the device and the kernel. These are an H200's.
  int processors = 132;
  int shared_of_processor = 228 << 10;
  int shared_of_block = 227 << 10;
  int shared_reserved = 1 << 10;  // of a block
  int shared_static = 3168;       // of a block, declared in the kernel
  int resident = 1;               // blocks of the kernel, beside each other

  Turns turns = Turns::kAscending;
  bool runs = true;  // else launches are only noted
  int broken_barrier =
      -1;         // 0, 1: every other __syncthreads, from the first or the second, is none
  Launch launch;  // the last one
};
extern Device device;

// Of the block that this thread of the host runs: defined where the kernel is compiled.
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

// False where threads wait for others that have ended or wait elsewhere, or where dynamic shared
// memory was written past its end.
bool run(const Launch& launch, const std::function<void()>& kernel);

}  // namespace host_gpu
