// A parallel loop whose tasks are handed out one by one. Results never depend on who runs a task.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace sbc {

// Runs work(worker) on each of up to `threads` threads, on this one at least. Threads start and end
// with the call (about 30 us each, against tasks of milliseconds), so that a fork between two calls
// finds none to lose. `work` must not throw.
template <class Work>
void run_on_threads(int threads, Work&& work) {
  std::vector<std::thread> others;
  others.reserve(threads - 1);
  try {
    for (int worker = 1; worker < threads; ++worker) others.emplace_back(work, worker);
  } catch (const std::system_error&) {
    // The system grants no more threads: those that run do all the tasks.
  }
  work(0);
  for (std::thread& other : others) other.join();
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

// One loop after another, without new threads for each: task(step, index) for every index in
// [0, count(step)), all of a step before any of the next one. count may depend on what the steps
// before have found.
template <class Count, class Task>
void parallel_steps(int64_t steps, int threads, Count&& count, Task&& task) {
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
  };
  std::vector<Progress> progress(steps);
  run_on_threads(std::max(1, threads), [&](int) {
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t end = count(step);
      Progress& mine = progress[step];
      for (int64_t index; (index = mine.next.fetch_add(1, std::memory_order_relaxed)) < end;) {
        task(step, index);
        mine.done.fetch_add(1, std::memory_order_release);
      }
      while (mine.done.load(std::memory_order_acquire) < end) std::this_thread::yield();
    }
  });
}

}  // namespace sbc
