// Owner of cache-line aligned scratch memory.
#pragma once

#include <cstddef>
#include <memory>

namespace sbc {

// From kLargeBlock bytes on, memory is requested in huge pages, and up to kKeptBytes of it are kept
// for the next call: of the 44 ms that one block of a Gram took, 12 went into the first touch of
// the 64 MiB that it was packed into. May be called from any thread.
constexpr size_t kLargeBlock = 2 << 20, kKeptBytes = 64 << 20;
void* allocate_aligned(size_t bytes);  // 64-byte aligned, uninitialised. Throws std::bad_alloc
void free_aligned(void* memory, size_t bytes);

struct FreeAligned {
  size_t bytes = 0;
  void operator()(void* memory) const { free_aligned(memory, bytes); }
};

template <class T>
using AlignedArray = std::unique_ptr<T[], FreeAligned>;

template <class T>
AlignedArray<T> aligned_array(size_t count) {
  const size_t bytes = count * sizeof(T);
  return AlignedArray<T>(static_cast<T*>(allocate_aligned(bytes)), FreeAligned{bytes});
}

}  // namespace sbc
