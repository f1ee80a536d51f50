// One block processes one row. The weights, diagonal and floors of all places stay in registers. A
// pivot reads all earlier lines of L at all places: 1.2 MB with 4608 places and 64 lines, which for
// 132 rows at once is more than any L2 cache holds. The first lines are read most often, so as many
// of them as fit stay in shared memory: 12 of 64 with 4608 places, 24 with 2304, and all with 900
// or fewer. 12 of 64 lines serve a third of the reads, 24 serve 61 %.
//
// A thread has units of 4 neighbouring places: unit `thread + g * threads` in group g. It reads
// only lines of L that it has written itself, except L at the pivot, which comes from other
// threads. Each pivot takes two barriers:
//
//   every warp has its least score -> barrier -> all threads agree on p
//   L at p, the pivot's scale and step are published -> barrier -> the sweep
//
// Data written before one barrier is read after it, and overwritten only after the other. A single
// buffer of each kind is therefore enough.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/cuda_check.h"
#include "obs_order/cuda_panel.h"

namespace sbc {
namespace {

constexpr int kUnit = 4;                         // places
constexpr int kMostThreads = 384;                // 168 registers each
constexpr int kLeastThreads = kMostPanelPivots;  // one per line, to publish L at p
constexpr int kMostWarps = kMostThreads / 32;
// Lines of a unit in flight: 48 KB or more for 384 threads.
template <int kGroups>
constexpr int kRing = kGroups == 2 || kGroups == 3 ? 12 : 8;
constexpr int kOpen = 0, kGone = 2;
constexpr float kLargest = 3.402823466e38f;

struct Unit {
  float at[kUnit];
};

__device__ Unit unit_of(float4 from) { return {{from.x, from.y, from.z, from.w}}; }

__device__ float4 float4_of(const Unit& from) {
  return make_float4(from.at[0], from.at[1], from.at[2], from.at[3]);
}

__device__ float pick(const Unit& from, int which) {
  return which < 2 ? (which == 0 ? from.at[0] : from.at[1])
                   : (which == 2 ? from.at[2] : from.at[3]);
}

__device__ void add_product(Unit& sum, float factor, float4 line) {
  sum.at[0] = __fmaf_rn(factor, line.x, sum.at[0]);
  sum.at[1] = __fmaf_rn(factor, line.y, sum.at[1]);
  sum.at[2] = __fmaf_rn(factor, line.z, sum.at[2]);
  sum.at[3] = __fmaf_rn(factor, line.w, sum.at[3]);
}

// The least score so far, and its place. Places ascend, and the first of equal scores stays.
struct Least {
  float score = HUGE_VALF;  // none
  int place = 0;

  __device__ void lower(float weight, float diagonal, bool may_go, int at) {
    float ratio = __fdiv_rn(__fmul_rn(weight, weight), diagonal);
    ratio =
        ratio <= kLargest ? ratio : kLargest;  // replaces NaN too, which would read as "none left"
    if (may_go && ratio < score) {
      score = ratio;
      place = at;
    }
  }
};

struct Ranked {
  uint32_t score, place;
};

// Scores are not negative, so their bits have the same order. Of equal scores, the lowest place
// wins.
__device__ Ranked least_of_warp(uint32_t score, uint32_t place) {
  const uint32_t least = __reduce_min_sync(~0u, score);
  return {least, __reduce_min_sync(~0u, score == least ? place : ~0u)};
}

// Offset of column 0 of line i of the matrix: `_line_start` in sbc_kernels/backends/triton.
struct Lines {
  int width, tile, tile_bits;

  __device__ int begin(int i) const { return tile == 0 ? 0 : i >> tile_bits << tile_bits; }

  __device__ int start(int i) const {
    if (tile == 0) return i * width;
    const int q = i >> tile_bits;
    const int skipped = (q * (q - 1) / 2 * tile + q * ((i & (tile - 1)) + 1)) * tile;
    return i * width - skipped;
  }
};

// near: number of lines in shared memory. vectors: whether units of the matrix's lines are aligned.
template <int kGroups>
__global__ void __launch_bounds__(kMostThreads, 1)
    panel(const OrderPanelParams params, const Lines layout, int near, bool vectors) {
  extern __shared__ float4 near_lines[];            // [near, near_side]
  __shared__ float4 pivots[kMostPanelPivots];       // scale, step, weight, diagonal
  __shared__ int places[kMostPanelPivots];          // of the pivots
  __shared__ float4 factors[kMostPanelPivots / 4];  // L at p
  __shared__ Ranked least_of[kMostWarps];
  float* const factor_at = reinterpret_cast<float*>(factors);

  const int thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const int lane = thread % 32;
  const int64_t row = blockIdx.x;
  const int m = static_cast<int>(params.m);
  const int count = static_cast<int>(params.count);
  const int units = (m + kPanelAlign - 1) / kPanelAlign * (kPanelAlign / kUnit);
  const int near_side = units + 1;  // one more, so that L at p is in 8 banks instead of one
  const int side = static_cast<int>(params.side) / kUnit;
  const float* const matrix = params.matrix + row * params.matrix_stride;
  float4* const lines = reinterpret_cast<float4*>(params.lines + row * params.lines_stride);
  float4* const weight = reinterpret_cast<float4*>(params.weight + row * params.side);
  float4* const diagonal = reinterpret_cast<float4*>(params.diagonal + row * params.side);

  const float4* const floor = reinterpret_cast<const float4*>(params.floor + row * params.side);
  const int4* const states = reinterpret_cast<const int4*>(params.state + row * params.side);

  Unit w[kGroups], g[kGroups], lowest[kGroups];
  uint32_t open = 0;  // bit kUnit * group + e: place e of that unit may be removed
  Least least;
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const int unit = thread + group * threads;
    w[group] = {{0, 0, 0, 0}};
    g[group] = lowest[group] = {{1, 1, 1, 1}};
    if (unit < units) {
      w[group] = unit_of(weight[unit]);
      g[group] = unit_of(diagonal[unit]);
      lowest[group] = unit_of(floor[unit]);
      const int4 state = states[unit];
      open |= static_cast<uint32_t>((state.x == kOpen) | (state.y == kOpen) << 1 |
                                    (state.z == kOpen) << 2 | (state.w == kOpen) << 3)
              << (kUnit * group);
    }
#pragma unroll
    for (int e = 0; e < kUnit; ++e) {
      least.lower(w[group].at[e], g[group].at[e], open >> (kUnit * group + e) & 1,
                  kUnit * unit + e);
    }
  }

  for (int k = 0; k < count; ++k) {
    const Ranked of_warp = least_of_warp(__float_as_uint(least.score), least.place);
    if (lane == 0) least_of[thread / 32] = of_warp;
    __syncthreads();
    const Ranked other = lane < threads / 32 ? least_of[lane] : Ranked{~0u, ~0u};
    const int p = min(static_cast<int>(least_of_warp(other.score, other.place).place), m - 1);

    // Everything that depends on p alone is requested before the second barrier.
    float factor = 0;
    if (thread < k) {
      factor = thread < near ? reinterpret_cast<const float*>(near_lines + thread * near_side)[p]
                             : __ldcg(reinterpret_cast<const float*>(lines + thread * side) + p);
    }
    // From p on this is the line of p; before p it is a column, at 32 bytes of traffic for 4.
    const int start_p = layout.start(p);
    const int direct = layout.tile == 0 ? 0 : p;
    Unit column[kGroups];
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const int at = kUnit * (thread + group * threads);
      if (vectors && at >= direct && at + kUnit <= m) {
        column[group] = unit_of(__ldcg(reinterpret_cast<const float4*>(matrix + start_p + at)));
      } else {
        const int above = layout.start(at), descent = layout.width - layout.begin(at);
#pragma unroll
        for (int e = 0; e < kUnit; ++e) {
          const int entry = at + e < direct ? above + e * descent + p : start_p + at + e;
          column[group].at[e] = at + e < m ? __ldcg(matrix + entry) : 0.0f;
        }
      }
    }

    bool mine = false;
    float w_p = 0, g_p = 1;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      if (thread + group * threads == p / kUnit) {
        mine = true;
        w_p = pick(w[group], p % kUnit);
        g_p = pick(g[group], p % kUnit);
        open &= ~(1u << (kUnit * group + p % kUnit));
      }
    }
    if (mine) {
      const float scale = __fdiv_rn(1.0f, __fsqrt_rn(g_p));
      pivots[k] = make_float4(scale, __fmul_rn(w_p, scale), w_p, g_p);
      places[k] = p;
    }
    if (thread < k) factor_at[thread] = factor;
    __syncthreads();

    const float scale = pivots[k].x, step = pivots[k].y;
    const int num_near = min(k, near), num_far = k - num_near;
    least = Least();
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const int unit = thread + group * threads;
      if (unit >= units) break;
      int next = near * side + unit;  // an index, since 64-bit addresses would all occupy registers
      float4 ring[kRing<kGroups>];
#pragma unroll
      for (int r = 0; r < kRing<kGroups>; ++r) {
        if (r < num_far) ring[r] = __ldcg(lines + next);
        next += side;
      }

      Unit known{{0, 0, 0, 0}};
      const float4* stored = near_lines + unit;
      int j = 0;
#pragma unroll 1
      for (; j + 4 <= num_near; j += 4, stored += 4 * near_side) {
        const float4 f = factors[j / 4];
        add_product(known, f.x, stored[0]);
        add_product(known, f.y, stored[near_side]);
        add_product(known, f.z, stored[2 * near_side]);
        add_product(known, f.w, stored[3 * near_side]);
      }
#pragma unroll 1
      for (; j < num_near; ++j, stored += near_side) add_product(known, factor_at[j], *stored);

      // A full round needs no conditions, but without them the compiler moves its loads behind all
      // of its products, and the ring runs empty every time.
      const float* f = factor_at + near;
#pragma unroll 1
      for (int rest = num_far; rest > 0; rest -= kRing<kGroups>, f += kRing<kGroups>) {
#pragma unroll
        for (int r = 0; r < kRing<kGroups>; ++r) {
          if (r < rest) add_product(known, f[r], ring[r]);
          if (r + kRing<kGroups> < rest) ring[r] = __ldcg(lines + next);
          next += side;
        }
      }

      Unit line;
#pragma unroll
      for (int e = 0; e < kUnit; ++e) {
        const int at = kUnit * unit + e;
        float& w_at = w[group].at[e];
        float& g_at = g[group].at[e];
        // 0 at p, as if it stayed: this entry is not read any more.
        line.at[e] = at == p ? 0.0f : __fmul_rn(column[group].at[e] - known.at[e], scale);
        w_at = __fmaf_rn(-step, line.at[e], w_at);
        g_at = __fmaf_rn(-line.at[e], line.at[e], g_at);
        g_at = g_at > lowest[group].at[e] ? g_at : lowest[group].at[e];
        least.lower(w_at, g_at, open >> (kUnit * group + e) & 1, at);
      }
      lines[k * side + unit] = float4_of(line);
      if (k < near) near_lines[k * near_side + unit] = float4_of(line);
    }
  }

  // `pivots` and `places` were written before the last barrier.
  if (thread < count) {
    const float4 pivot = pivots[thread];
    const int place = places[thread];
    const float size = __fmul_rn(pivot.z, params.unit[row]);
    const int64_t to = row * params.num_pruned + params.done + thread;
    params.order[to] = params.ids[row * params.side + place];
    params.loss[to] = __fdiv_rn(__fmul_rn(size, size), 2 * pivot.w);
    params.state[row * params.side + place] = kGone;
  }
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const int unit = thread + group * threads;
    if (unit < units) {
      weight[unit] = float4_of(w[group]);
      diagonal[unit] = float4_of(g[group]);
    }
  }
}

// ---- launch -------------------------------------------------------------------------------------

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

template <int kGroups>
void launch(const OrderPanelParams& params, int units, CUstream_st* stream) {
  // Units per thread: even shares, instead of 512 and a rest.
  const int each = (units + kGroups - 1) / kGroups;
  const int threads = std::max(kLeastThreads, (each + 31) / 32 * 32);

  cudaFuncAttributes kernel;
  check(cudaFuncGetAttributes(&kernel, panel<kGroups>), "cudaFuncGetAttributes(panel)");
  const int fixed = static_cast<int>(kernel.sharedSizeBytes);
  const int of_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, params.device) - fixed;
  check(cudaFuncSetAttribute(panel<kGroups>, cudaFuncAttributeMaxDynamicSharedMemorySize, of_block),
        "cudaFuncSetAttribute(panel, MaxDynamicSharedMemorySize)");
  check(cudaFuncSetAttribute(panel<kGroups>, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        "cudaFuncSetAttribute(panel, PreferredSharedMemoryCarveout)");

  // Resident blocks share a multiprocessor's shared memory. With few places a pivot mostly waits,
  // and a further row fills that time better than further lines in shared memory would shorten it.
  int resident = 1;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, panel<kGroups>, threads, 0),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor(panel)");
  const int processors = attribute(cudaDevAttrMultiProcessorCount, params.device);
  const int64_t wanted = (params.rows + processors - 1) / processors;
  const int beside = static_cast<int>(std::min<int64_t>(wanted, std::max(resident, 1)));
  const int share = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, params.device) / beside -
                    attribute(cudaDevAttrReservedSharedMemoryPerBlock, params.device) - fixed;
  const int line_bytes = (units + 1) * static_cast<int>(sizeof(float4));
  const int room = std::max(std::min(share, of_block), 0) / line_bytes;
  const int near =
      std::min(room, static_cast<int>(params.count) - 1);  // the last line is never read

  Lines layout{static_cast<int>(params.width), static_cast<int>(params.tile), 0};
  while (int64_t{1} << layout.tile_bits < params.tile) ++layout.tile_bits;
  const bool vectors = reinterpret_cast<uintptr_t>(params.matrix) % sizeof(float4) == 0 &&
                       params.matrix_stride % kUnit == 0 && params.width % kUnit == 0;

  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(params.rows));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(near) * line_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, panel<kGroups>, params, layout, near, vectors),
        "cudaLaunchKernelEx(panel)");
}

}  // namespace

bool runs_order_panel(int device) { return runs(panel<1>, device); }

void order_panel(const OrderPanelParams& params, CUstream_st* stream) {
  if (params.rows == 0 || params.count == 0) return;
  check(cudaSetDevice(params.device), "cudaSetDevice");
  const int units = static_cast<int>((params.m + kPanelAlign - 1) / kPanelAlign) *
                    static_cast<int>(kPanelAlign / kUnit);
  switch ((units + kMostThreads - 1) / kMostThreads) {
    case 1: return launch<1>(params, units, stream);
    case 2: return launch<2>(params, units, stream);
    case 3: return launch<3>(params, units, stream);
    default: return launch<4>(params, units, stream);
  }
  static_assert(kMostPanelPlaces <= 4 * kUnit * kMostThreads, "the cases above");
}

}  // namespace sbc
