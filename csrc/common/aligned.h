// Zero-cost owner of cache-line aligned scratch memory.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace sbc {

struct FreeDeleter {
  void operator()(void* pointer) const { std::free(pointer); }
};

template <class T>
using AlignedArray = std::unique_ptr<T[], FreeDeleter>;

// `count` elements, uninitialised, aligned to 64 bytes. Throws std::bad_alloc.
template <class T>
AlignedArray<T> aligned_array(size_t count) {
  const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
  void* memory = std::aligned_alloc(64, bytes > 0 ? bytes : 64);
  if (memory == nullptr) throw std::bad_alloc();
  return AlignedArray<T>(static_cast<T*>(memory));
}

}  // namespace sbc
