#include "common/aligned.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sbc {
namespace {

constexpr size_t kLine = 64, kHugePage = 2 << 20;

size_t block_size(size_t bytes) {
  const size_t unit = bytes >= kLargeBlock ? kHugePage : kLine;
  return bytes == 0 ? unit : (bytes + unit - 1) / unit * unit;
}

void* allocate_block(size_t bytes) {
  const size_t size = block_size(bytes), alignment = bytes >= kLargeBlock ? kHugePage : kLine;
  void* memory = std::aligned_alloc(alignment, size);
  if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  // This is only advice to the system, so its return value does not matter.
  if (alignment == kHugePage) madvise(memory, size, MADV_HUGEPAGE);
#endif
  return memory;
}

// Large blocks that are not in use, by size.
class KeptBlocks {
 public:
  ~KeptBlocks() {
    for (const auto& block : blocks_) std::free(block.second);
  }
  // The smallest block that is large enough and at most twice as large as requested.
  void* take(size_t size) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = blocks_.lower_bound(size);
    if (found == blocks_.end() || found->first > 2 * size) return nullptr;
    void* memory = found->second;
    sizes_[memory] = found->first;
    kept_ -= found->first;
    blocks_.erase(found);
    return memory;
  }
  void give_back(void* memory, size_t size) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto known = sizes_.find(memory);
      if (known != sizes_.end()) {
        size = known->second;
        sizes_.erase(known);
      }
      if (kept_ + size <= kKeptBytes) {
        blocks_.emplace(size, memory);
        kept_ += size;
        return;
      }
    }
    std::free(memory);
  }

 private:
  std::mutex mutex_;
  std::multimap<size_t, void*> blocks_;
  std::map<void*, size_t> sizes_;  // of blocks in use that are larger than requested
  size_t kept_ = 0;
};

KeptBlocks& kept_blocks() {
  static KeptBlocks blocks;
  return blocks;
}

}  // namespace

void* allocate_aligned(size_t bytes) {
  if (bytes >= kLargeBlock) {
    if (void* memory = kept_blocks().take(block_size(bytes))) return memory;
  }
  return allocate_block(bytes);
}

void free_aligned(void* memory, size_t bytes) {
  if (memory == nullptr) return;
  if (bytes < kLargeBlock) return std::free(memory);
  kept_blocks().give_back(memory, block_size(bytes));
}

}  // namespace sbc
