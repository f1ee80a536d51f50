// A parallel loop whose tasks are handed out one by one. Results never depend on who runs a task.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace sbc {

// Calls task(index, worker) for every index in [0, count), worker in [0, threads). Threads start
// and end with the call (about 30 us each, against tasks of milliseconds), so that a fork between
// two calls finds none to lose. `task` must not throw.
template <class Task>
void parallel_for(int64_t count, int threads, Task&& task) {
  const int workers = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, count)));
  std::atomic<int64_t> next{0};
  auto work = [&](int worker) {
    for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      task(index, worker);
    }
  };
  std::vector<std::thread> others;
  others.reserve(workers - 1);
  try {
    for (int worker = 1; worker < workers; ++worker) others.emplace_back(work, worker);
  } catch (const std::system_error&) {
    // The system grants no more threads: those that run do all the tasks.
  }
  work(0);
  for (std::thread& other : others) other.join();
}

}  // namespace sbc
