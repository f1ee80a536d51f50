// One unit is one cluster of two blocks. Each sums 128 rows of the tile and all 256 columns: its
// two consuming warpgroups 64 rows each, 128 registers of sums a thread. A ninth warp lets the copy
// engine (TMA) fill stages of shared memory ahead of them:
//
//   block 0:  left rows   0..127 | right rows 0..127 | right rows 128..255
//   block 1:  left rows 128..255 | right rows 0..127 | right rows 128..255
//
// Each block fetches its left rows and half of the right ones, the half for both: 32 KB of cache
// traffic a step, where a block alone would read 48 KB. The matrix units take 1024 cycles for it.
//
// A stage has two barriers in each block. `full` completes once when the block's own producer has
// announced the bytes and all have come, from either producer. `empty` completes when all 16
// consuming warps of both blocks are done with the stage. Fill n of a stage, in either block, is
// issued after phase n - 1 of that block's `empty`. So when the peer's bytes arrive, the consumers
// here have seen phase n - 1 of `full` complete: the bytes count for phase n, before or after they
// are announced, and phase n waits for the announcement.
#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <stdexcept>

#include "common/cuda_check.h"
#include "spike_gram/bytes_cuda.h"

namespace sbc {
namespace {

constexpr int kBlocks = 2;                   // of a cluster
constexpr int kWarpgroups = 2;               // that consume
constexpr int kConsumers = 4 * kWarpgroups;  // warps
constexpr int kThreads = 32 * (kConsumers + 1);
constexpr int kSums = 128;  // of a thread: 64 x 256 of a warpgroup
constexpr int kStages = 4;  // 192 of 227 KB
constexpr int kRow = kByteRow;
constexpr int kBoxRows = 128;  // of one copy
constexpr int kBoxBytes = kBoxRows * kRow;
constexpr int kStageBytes = (1 + kBlocks) * kBoxBytes;  // left, then the right halves
constexpr int kAtomBytes = 8 * kRow;                    // the swizzle's period
constexpr int kSharedBytes = kAtomBytes + kStages * (kStageBytes + 2 * 8);
constexpr int kDepthBytes = 32;  // that one product sums over

// ---- PTX ----------------------------------------------------------------------------------------
// Shared memory goes by its 32-bit address. Stages are written by the copy engine and read by the
// matrix units only: the barriers that count copies and the waits for products order that. Arriving
// and waiting with cluster scope would add what ordinary loads and stores need, a MEMBAR.ALL.GPU
// and a flush of the first-level cache a step.

__device__ void init_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ void announce(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// At the barrier that lies there in that block of the cluster.
__device__ void arrive(uint32_t barrier, int block) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(barrier),
      "r"(block)
      : "memory");
}

// Until the phase of that parity is complete. A new barrier answers at once for parity 1.
__device__ void wait(uint32_t barrier, uint32_t parity) {
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
}

__device__ void sync_cluster() {
  asm volatile(
      "barrier.cluster.arrive.release;\n"
      "barrier.cluster.wait.acquire;" ::
          : "memory");
}

// A box of rows of the planes to shared memory; its bytes count at the barrier.
__device__ void fetch(uint32_t to, const CUtensorMap* planes, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(planes), "r"(0), "r"(row), "r"(barrier)
      : "memory");
}

// The same to the same place in both blocks, counted at the barrier of each.
__device__ void fetch_for_both(uint32_t to, const CUtensorMap* planes, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(planes), "r"(0), "r"(row), "r"(barrier), "h"(static_cast<uint16_t>(0b11))
      : "memory");
}

// A matrix in shared memory for wgmma: rows of 128 bytes, swizzled over all of them, a period of 8
// rows behind the other. The distance in bits 16 to 29 is for other layouts.
__device__ uint64_t matrix_at(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kPeriod = uint64_t{kAtomBytes >> 4} << 32;
  return kSwizzle128 | kPeriod | uint64_t{1} << 16 | (address & 0x3FFFF) >> 4;
}

__device__ void fence_sums() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int kPending>
__device__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

#define SBC_TEN(t) \
  "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define SBC_FIFTY(a, b, c, d, e) SBC_TEN(a) SBC_TEN(b) SBC_TEN(c) SBC_TEN(d) SBC_TEN(e)
#define SBC_SUMS          \
  SBC_FIFTY(, 1, 2, 3, 4) \
  SBC_FIFTY(5, 6, 7, 8, 9) SBC_TEN(10) SBC_TEN(11) "%120,%121,%122,%123,%124,%125,%126,%127"
#define SBC_FOUR(i) "+r"(sums[i]), "+r"(sums[i + 1]), "+r"(sums[i + 2]), "+r"(sums[i + 3])
#define SBC_SIXTEEN(i) SBC_FOUR(i), SBC_FOUR(i + 4), SBC_FOUR(i + 8), SBC_FOUR(i + 12)

// sums [64, 256] += left [64, 32] right' [32, 256], in the background: until wait_products nobody
// may touch sums, %0 to %127 in the text.
__device__ void multiply(int32_t (&sums)[kSums], uint64_t left, uint64_t right) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {" SBC_SUMS "}, %128, %129, 1;"
               : SBC_SIXTEEN(0), SBC_SIXTEEN(16), SBC_SIXTEEN(32), SBC_SIXTEEN(48), SBC_SIXTEEN(64),
                 SBC_SIXTEEN(80), SBC_SIXTEEN(96), SBC_SIXTEEN(112)
               : "l"(left), "l"(right)
               : "memory");
}

#undef SBC_TEN
#undef SBC_FIFTY
#undef SBC_SUMS
#undef SBC_FOUR
#undef SBC_SIXTEEN

// ---- kernel -------------------------------------------------------------------------------------

struct Unit {
  int first_left, first_right, first_pair, num_pairs, first, last, slot;
};

// Where in shared memory what lies, in both blocks alike.
struct Stages {
  uint32_t base;  // a multiple of kAtomBytes
  __device__ uint32_t left(int stage) const { return base + stage * kStageBytes; }
  __device__ uint32_t right(int stage) const { return left(stage) + kBoxBytes; }
  __device__ uint32_t full(int stage) const { return base + kStages * kStageBytes + stage * 8; }
  __device__ uint32_t empty(int stage) const { return full(kStages + stage); }
};

// Stages in turn, and the parity of how often this one has come up.
struct Turn {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// One thread.
__device__ void produce(const CUtensorMap* planes, const Stages& stages, const Unit& unit,
                        const int32_t* pairs, int slots, int channels, int block) {
  int step = unit.first / unit.num_pairs;
  int pair = unit.first - step * unit.num_pairs;
  const int32_t* row = pairs + int64_t{unit.first_pair} * 2;
  int p = __ldg(row + 2 * pair), q = __ldg(row + 2 * pair + 1);
  Turn turn;
  for (int k = unit.first; k < unit.last; ++k) {
    const int left = (step * slots + p) * channels + unit.first_left + block * kBoxRows;
    const int right = (step * slots + q) * channels + unit.first_right + block * kBoxRows;
    if (++pair == unit.num_pairs) {
      pair = 0;
      ++step;
    }
    p = __ldg(row + 2 * pair);  // a step ahead, while the stage is waited for
    q = __ldg(row + 2 * pair + 1);
    wait(stages.empty(turn.stage), turn.parity ^ 1);
    const uint32_t full = stages.full(turn.stage);
    announce(full, kStageBytes);
    fetch(stages.left(turn.stage), planes, left, full);
    fetch_for_both(stages.right(turn.stage) + block * kBoxBytes, planes, right, full);
    turn.next();
  }
}

// A warpgroup. The products of one step are under way while it waits for the next one.
__device__ void consume(int32_t (&sums)[kSums], const Stages& stages, const Unit& unit,
                        int warpgroup, int lane) {
#pragma unroll
  for (int i = 0; i < kSums; ++i) sums[i] = 0;
  const uint64_t first_left = matrix_at(stages.left(0) + warpgroup * (kBoxBytes / kWarpgroups));
  const uint64_t first_right = matrix_at(stages.right(0));
  Turn turn;
  int before = -1;
  for (int k = unit.first; k < unit.last; ++k) {
    wait(stages.full(turn.stage), turn.parity);
    const uint64_t left = first_left + turn.stage * (kStageBytes >> 4);
    const uint64_t right = first_right + turn.stage * (kStageBytes >> 4);
    fence_sums();
#pragma unroll
    for (int depth = 0; depth < kRow; depth += kDepthBytes) {
      multiply(sums, left + (depth >> 4), right + (depth >> 4));
    }
    commit();
    wait_products<1>();  // those of the step before
    if (before >= 0 && lane < kBlocks) arrive(stages.empty(before), lane);
    before = turn.stage;
    turn.next();
  }
  wait_products<0>();  // nobody waits for the last stage to be empty
}

// to: [64, 256] of a warpgroup.
__device__ void store(const int32_t (&sums)[kSums], int32_t* to, int warp, int lane) {
  to += (16 * warp + lane / 4) * kByteSide + 2 * (lane % 4);
#pragma unroll
  for (int i = 0; i < kSums; i += 4) {  // 8 columns, rows r and r + 8
    *reinterpret_cast<int2*>(to + 2 * i) = make_int2(sums[i], sums[i + 1]);
    *reinterpret_cast<int2*>(to + 2 * i + 8 * kByteSide) = make_int2(sums[i + 2], sums[i + 3]);
  }
}

__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads, 1)
    multiply_units(const __grid_constant__ CUtensorMap planes, const int32_t* units,
                   const int32_t* pairs, int32_t* partials, int slots, int channels) {
  extern __shared__ uint8_t shared[];
  const uint32_t start = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const Stages stages{(start + kAtomBytes - 1) / kAtomBytes * kAtomBytes};
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int block = static_cast<int>(blockIdx.x) % kBlocks;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      init_barrier(stages.full(stage), 1);
      init_barrier(stages.empty(stage), kBlocks * kConsumers);
    }
    asm volatile("prefetch.tensormap [%0];" ::"l"(&planes) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  const int32_t* numbers = units + int64_t{blockIdx.x / kBlocks} * kUnitNumbers;
  const Unit unit{__ldg(numbers),     __ldg(numbers + 1), __ldg(numbers + 2), __ldg(numbers + 3),
                  __ldg(numbers + 4), __ldg(numbers + 5), __ldg(numbers + 6)};
  sync_cluster();
  if (warp == kConsumers) {
    if (lane == 0 && unit.first < unit.last) {
      produce(&planes, stages, unit, pairs, slots, channels, block);
    }
    __syncwarp();
    sync_cluster();
  } else {
    int32_t sums[kSums];
    consume(sums, stages, unit, warp / 4, lane);
    sync_cluster();  // until then the other block may arrive at barriers here
    const int first_row = block * kBoxRows + warp / 4 * (kBoxRows / kWarpgroups);
    store(sums, partials + (int64_t{unit.slot} * kByteSide + first_row) * kByteSide, warp % 4,
          lane);
  }
}

// ---- launch -------------------------------------------------------------------------------------

// Tiles of the planes for the copy engine. The driver's function is asked for at run time: nothing
// links libcuda, which machines without a GPU lack.
CUtensorMap map_of(const MultiplyBytesParams& params) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult answer;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                         &answer),
        "cudaGetDriverEntryPointByVersion(cuTensorMapEncodeTiled)");
  if (answer != cudaDriverEntryPointSuccess || found == nullptr) {
    throw std::runtime_error("cuTensorMapEncodeTiled: the driver has none; CUDA 12.0 is needed");
  }
  CUtensorMap map;
  const cuuint64_t size[] = {kRow, static_cast<cuuint64_t>(params.rows)}, stride[] = {kRow};
  const cuuint32_t box[] = {kRow, kBoxRows}, each[] = {1, 1};
  const CUresult result = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found)(
      &map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<int8_t*>(params.planes), size, stride, box,
      each, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(static_cast<cudaError_t>(result), "cuTensorMapEncodeTiled");  // numbered alike
  return map;
}

}  // namespace

bool runs_multiply_bytes(int device) { return runs(multiply_units, device); }

void multiply_bytes(const MultiplyBytesParams& params, CUstream_st* stream) {
  if (params.num_units == 0) return;
  check(cudaSetDevice(params.device), "cudaSetDevice");
  check(cudaFuncSetAttribute(multiply_units, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kSharedBytes),
        "cudaFuncSetAttribute(multiply_units)");
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>(params.num_units * kBlocks));
  launch.blockDim = dim3(kThreads);
  launch.dynamicSmemBytes = kSharedBytes;
  launch.stream = stream;
  check(cudaLaunchKernelEx(&launch, multiply_units, map_of(params), params.units, params.pairs,
                           params.partials, static_cast<int>(params.slots),
                           static_cast<int>(params.channels)),
        "cudaLaunchKernelEx(multiply_units)");
}

}  // namespace sbc
