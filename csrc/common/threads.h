// Parallel loops that hand out their tasks one by one. No result may depend on which thread runs a
// task.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace sbc {

// Runs work(worker) on up to `threads` threads, including the calling one. Threads start and end
// with the call (about 30 us each, compared with milliseconds for a task), so that no thread exists
// when the process forks between two calls. `work` must not throw.
template <class Work>
void run_on_threads(int threads, Work&& work) {
  std::vector<std::thread> others;
  others.reserve(threads - 1);
  try {
    for (int worker = 1; worker < threads; ++worker) others.emplace_back(work, worker);
  } catch (const std::system_error&) {
    // The system grants no more threads, so the running ones do all the tasks.
  }
  work(0);
  for (std::thread& other : others) other.join();
}

// Returns how many threads repay their start for this number of multiply-adds.
inline int useful_threads(double multiply_adds, int threads) {
  constexpr double kPerThread =
      3e7;  // 0.7 ms of them: a busy processor may not run a thread for longer
  return static_cast<int>(std::max(1.0, std::min<double>(threads, multiply_adds / kPerThread)));
}

// Calls task(index, worker) for every index in [0, count), worker in [0, threads).
template <class Task>
void parallel_for(int64_t count, int threads, Task&& task) {
  const int workers = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, count)));
  std::atomic<int64_t> next{0};
  run_on_threads(workers, [&](int worker) {
    for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      task(index, worker);
    }
  });
}

// How far each of several lines of work has come. parallel_for begins its tasks in order, so a task
// may wait for what earlier ones do. That is less waiting than loops that end together: of several
// threads one may be kept from running by other processes for milliseconds.
class Milestones {
 public:
  explicit Milestones(int64_t lines) : reached_(lines) {}
  void wait(int64_t line, int64_t least) const {
    while (reached_[line].load(std::memory_order_acquire) < least) std::this_thread::yield();
  }
  void advance(int64_t line) { reached_[line].fetch_add(1, std::memory_order_release); }

 private:
  std::vector<std::atomic<int64_t>> reached_;
};

}  // namespace sbc
