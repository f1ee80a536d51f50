// What this machine could do at best, measured: a register-only AND + POPCNT + ADD loop on each
// thread, with the widest population count it has. Prints bits a second.
//
//   c++ -O3 -march=native -pthread limits.cpp -o limits && ./limits THREADS
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

constexpr int64_t kRounds = 40'000'000;

#define SBC_KEEP(value) __asm__ volatile("" : "+r"(value))

// Four independent sums: enough to hide the latency of POPCNT.
static uint64_t scalar_loop(uint64_t seed) {
  uint64_t a = seed, b = ~seed * 3, sum[4] = {};
  for (int64_t i = 0; i < kRounds; ++i) {
    for (uint64_t& s : sum) {
      SBC_KEEP(a);
      s += __builtin_popcountll(a & b);
    }
  }
  return sum[0] + sum[1] + sum[2] + sum[3];
}

#if defined(__AVX512VPOPCNTDQ__)
static uint64_t vector_loop(uint64_t seed) {
  __m512i a = _mm512_set1_epi64(seed), b = _mm512_set1_epi64(~seed * 3), sum[4] = {};
  for (int64_t i = 0; i < kRounds; ++i) {
    for (__m512i& s : sum) {
      __asm__ volatile("" : "+v"(a));
      s = _mm512_add_epi64(s, _mm512_popcnt_epi64(_mm512_and_si512(a, b)));
    }
  }
  return _mm512_reduce_add_epi64(
      _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3])));
}
constexpr int kVectorBits = 512;
#elif defined(__AVX2__)
// No vector POPCNT: two nibble look-ups and two adds take its place (Mula); sums stay in bytes,
// which overflow, but nothing is faster than not widening them.
static uint64_t vector_loop(uint64_t seed) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2,
                                         1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_set1_epi8(15);
  __m256i a = _mm256_set1_epi64x(seed), b = _mm256_set1_epi64x(~seed * 3), sum[4] = {};
  for (int64_t i = 0; i < kRounds; ++i) {
    for (__m256i& s : sum) {
      __asm__ volatile("" : "+x"(a));
      const __m256i both = _mm256_and_si256(a, b);
      const __m256i first = _mm256_shuffle_epi8(table, _mm256_and_si256(both, low));
      const __m256i second =
          _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(both, 4), low));
      s = _mm256_add_epi8(s, _mm256_add_epi8(first, second));
    }
  }
  uint64_t words[4];
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(words),
      _mm256_add_epi8(_mm256_add_epi8(sum[0], sum[1]), _mm256_add_epi8(sum[2], sum[3])));
  return words[0] + words[1] + words[2] + words[3];
}
constexpr int kVectorBits = 256;
#else
static uint64_t vector_loop(uint64_t seed) { return scalar_loop(seed); }
constexpr int kVectorBits = 64;
#endif

template <class Loop>
static double bits_per_second(Loop loop, int bits, int threads) {
  double best = 0;
  for (int trial = 0; trial < 3; ++trial) {
    std::vector<std::thread> workers;
    std::vector<uint64_t> results(threads);
    const auto start = std::chrono::steady_clock::now();
    for (int t = 0; t < threads; ++t)
      workers.emplace_back([&, t] { results[t] = loop(t + 12345); });
    for (std::thread& worker : workers) worker.join();
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (uint64_t& result : results) SBC_KEEP(result);
    const double rate = threads * 4.0 * kRounds * bits / seconds;
    best = rate > best ? rate : best;
  }
  return best;
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const double scalar = bits_per_second(scalar_loop, 64, threads);
  const double vector = bits_per_second(vector_loop, kVectorBits, threads);
  std::printf("%.6g\n", scalar > vector ? scalar : vector);
}
