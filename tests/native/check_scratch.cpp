// Scratch memory of the kernels: it is aligned and exclusive, and large blocks are kept for reuse.

#include <cstring>

#include "check.h"
#include "common/aligned.h"
#include "common/threads.h"

namespace sbc::check {
namespace {

constexpr size_t kMiB = 1 << 20;

bool is_aligned(const void* memory) { return reinterpret_cast<uintptr_t>(memory) % 64 == 0; }

// Address of one block of this size.
const char* place_of(size_t bytes) {
  const AlignedArray<char> block = aligned_array<char>(bytes);
  std::memset(block.get(), 1, bytes);
  return block.get();
}

}  // namespace

// Has to run before anything else has used large blocks, which would be kept.
void check_scratch(Tally& tally) {
  {
    Case test(tally, "a large block is used again");
    const char* first = place_of(10 * kMiB);
    test.expect(place_of(10 * kMiB) == first, "one as large came fresh");
    test.expect(place_of(6 * kMiB) == first, "a smaller one came fresh");
    test.expect(place_of(9 * kMiB + 1) == first, "a block forgot how large it is");
    test.expect(place_of(4 * kMiB) != first, "one not half as large took it");
    test.expect(place_of(4 * kMiB) != first, "of two blocks, the larger one was taken");
    test.expect(place_of(20 * kMiB) != first, "a larger one took it");
    const AlignedArray<char> used = aligned_array<char>(10 * kMiB);
    test.expect(used.get() == first, "one as large came fresh");
    test.expect(place_of(10 * kMiB) != first, "a block in use was given away");
  }
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{65}, kMiB + 3,
                             kLargeBlock - 1, kLargeBlock, kLargeBlock + 1, kKeptBytes + 5}) {
    Case test(tally, join(bytes, " bytes"));
    for (int repeat = 0; repeat < 2; ++repeat) {
      const auto block = aligned_array<char>(bytes), other = aligned_array<char>(bytes);
      test.expect(block != nullptr && other != nullptr && block != other, "two are not two");
      test.expect(is_aligned(block.get()) && is_aligned(other.get()), "not aligned");
      if (bytes > 0) block[0] = block[bytes - 1] = other[0] = other[bytes - 1] = 1;
    }
  }
  {
    Case test(tally, "an array of nothing, moved and left");
    AlignedArray<double> block = aligned_array<double>(kLargeBlock);
    const double* at = block.get();
    const AlignedArray<double> moved = std::move(block);
    test.expect(moved.get() == at && block == nullptr, "moving went wrong");
    block = aligned_array<double>(0);
  }
  Case test(tally, "four threads at once");
  std::atomic<bool> own{true};
  parallel_for(64, 4, [&](int64_t index, int) {
    const size_t bytes = kLargeBlock + static_cast<size_t>(index % 5) * kMiB;
    const auto block = aligned_array<char>(bytes);
    const char mark = static_cast<char>(index);
    for (size_t i = 0; i < bytes; i += 4096) block[i] = mark;
    for (size_t i = 0; i < bytes; i += 4096) {
      if (block[i] != mark) own = false;
    }
  });
  test.expect(own, "a block had two owners");
}

}  // namespace sbc::check
