#include "host_gpu.h"

#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "check.h"

namespace host_gpu {

Device device;
thread_local Index threadIdx, blockIdx, blockDim;

namespace {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 64 << 10;
constexpr int kUnwritten = 0xFF;  // NaNs

struct Barrier {
  int expected, arrived = 0;
  uint64_t phase = 0;
};

struct Warp {
  Barrier barrier{kWarp};
  uint32_t least = ~0u, answer = ~0u;
};

struct Thread {
  ucontext_t context{};
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  const Barrier* waits_at = nullptr;
  uint64_t phase = 0;  // the phase whose end it waits for
  int syncs = 0;
  bool ended = false;
};

// Continues in `to` until someone continues in `from`. Like swapcontext, of which AddressSanitizer
// warns.
void go(ucontext_t& from, ucontext_t& to) {
  volatile bool is_back = false;
  getcontext(&from);
  if (is_back) return;
  is_back = true;
  setcontext(&to);
}

class Block {
 public:
  Block(int threads, const std::function<void()>& kernel)
      : threads_(threads), warps_(threads / kWarp), all_{threads}, kernel_(kernel) {}

  bool run();  // false if no thread can continue

  void sync() {
    if (threads_[now_].syncs++ % 2 != device.broken_barrier) wait(all_);
  }

  uint32_t least(uint32_t value) {
    Warp& warp = warps_[now_ / kWarp];
    warp.least = std::min(warp.least, value);
    if (warp.barrier.arrived + 1 == kWarp) {
      warp.answer = warp.least;  // all threads have read the previous result when they return
      warp.least = ~0u;
    }
    wait(warp.barrier);
    return warp.answer;
  }

 private:
  static void enter();

  // Even the last thread to arrive lets the others continue first, or in their order.
  void wait(Barrier& barrier) {
    Thread& thread = threads_[now_];
    thread.waits_at = &barrier;
    thread.phase = barrier.phase;
    if (++barrier.arrived == barrier.expected) {
      barrier.arrived = 0;
      ++barrier.phase;
    }
    go(thread.context, scheduler_);
  }

  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  Barrier all_;
  const std::function<void()>& kernel_;
  ucontext_t scheduler_{};
  int now_ = 0;
};

thread_local Block* current = nullptr;

void Block::enter() {
  Block& block = *current;
  block.kernel_();
  block.threads_[block.now_].ended = true;
  setcontext(&block.scheduler_);
}

bool Block::run() {
  current = this;
  for (Thread& thread : threads_) {
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStackBytes;
    makecontext(&thread.context, &Block::enter, 0);
  }
  std::vector<int> order(threads_.size());
  std::iota(order.begin(), order.end(), 0);
  if (device.turns == Turns::kDescending) std::reverse(order.begin(), order.end());
  sbc::check::Random random(blockIdx.x);
  for (size_t left = order.size(); left > 0;) {
    if (device.turns == Turns::kShuffled) {
      for (size_t i = order.size() - 1; i > 0; --i) {
        std::swap(order[i], order[random.integer(0, static_cast<int64_t>(i))]);
      }
    }
    bool anyone = false;
    for (const int which : order) {
      Thread& thread = threads_[which];
      const Barrier* at = thread.waits_at;
      if (thread.ended || (at != nullptr && at->phase == thread.phase)) continue;
      anyone = true;
      now_ = which;
      threadIdx.x = static_cast<unsigned>(which);
      go(scheduler_, thread.context);
      left -= thread.ended;
    }
    if (!anyone) return false;
  }
  return true;
}

bool run_block(const Launch& launch, unsigned which, const std::function<void()>& kernel) {
  const Memory shared = dynamic_shared();
  std::memset(shared.begin, kUnwritten, shared.bytes);
  blockIdx.x = which;
  blockDim.x = launch.threads;
  if (!Block(static_cast<int>(launch.threads), kernel).run()) return false;
  const auto* const begin = static_cast<const unsigned char*>(shared.begin);
  return std::all_of(begin + launch.dynamic_bytes, begin + shared.bytes,
                     [](unsigned char byte) { return byte == kUnwritten; });
}

}  // namespace

void sync_block() { current->sync(); }

uint32_t least_of_warp(uint32_t value) { return current->least(value); }

bool run(const Launch& launch, const std::function<void()>& kernel) {
  std::atomic<bool> good{true};
  std::vector<std::thread> blocks;
  for (unsigned which = 0; which < launch.blocks; ++which) {
    blocks.emplace_back([&, which] {
      if (!run_block(launch, which, kernel)) good = false;
    });
  }
  for (std::thread& block : blocks) block.join();
  return good;
}

}  // namespace host_gpu
