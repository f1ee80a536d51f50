#include "obs_quantize/cpu.h"

#include "common/tiles.h"

namespace sbc {
namespace SBC_ISA {
namespace {

template <class T>
struct Column {
  Vector<T> lane[kMicroVectors];
};

// One value per row of the tile; rows past the end have `padding`.
template <class T>
Column<T> gather_rows(const SweepTile<T>& tile, const T* from, int64_t stride, T padding) {
  alignas(64) T values[kTile<T>];
  const int64_t live = tile.params->rows - tile.first_row;
  for (int lane = 0; lane < kTile<T>; ++lane) {
    values[lane] = lane < live ? from[(tile.first_row + lane) * stride] : padding;
  }
  Column<T> column;
  for (int v = 0; v < kMicroVectors; ++v) column.lane[v] = load<T>(values + v * kLanes<T>);
  return column;
}

// What the errors of all columns before the panel add to the target of each panel column, negated:
// [kMicroRows, kTile].
template <class T>
void carry_errors(const SweepTile<T>& tile, const SweepPanel& panel, T* carried) {
  __builtin_memset(carried, 0, kMicroRows * kTile<T> * sizeof(T));
  const T* packed = tile.packed + panel.offset;
  micro_update<T>(carried, kMicroRows, panel.first, 1,
                  [&](int64_t, const T*& left, const T*& right) {
                    left = packed;
                    right = tile.errors;
                  });
}

// Calls visit(column, R_jj, weight, target) for each column of the panel; visit returns q.
template <class T, class Visit>
void sweep_panel(const SweepTile<T>& tile, const SweepPanel& panel, Visit visit) {
  typedef Vector<T> V;
  const ObsQuantizeParams<T>& params = *tile.params;
  alignas(64) T carried[kMicroRows * kTile<T>];
  carry_errors(tile, panel, carried);
  const T* rows =
      tile.packed + panel.offset + panel.first * kMicroRows;  // R of the panel's own rows
  for (int m = 0; m < panel.width; ++m) {
    const int64_t step = panel.first + m;
    const Column<T> weight = gather_rows(tile, params.weight + params.perm[step], params.d, T(0));
    const T pivot = rows[m * kMicroRows + m];
    Column<T> target;
    for (int v = 0; v < kMicroVectors; ++v) {
      V sum = -load<T>(carried + m * kTile<T> + v * kLanes<T>);
      for (int before = 0; before < m; ++before) {
        sum += rows[before * kMicroRows + m] *
               load<T>(tile.errors + (panel.first + before) * kTile<T> + v * kLanes<T>);
      }
      target.lane[v] = weight.lane[v] + sum / pivot;
    }
    const Column<T> q = visit(step, pivot, target);
    for (int v = 0; v < kMicroVectors; ++v) {
      store<T>(tile.errors + step * kTile<T> + v * kLanes<T>, weight.lane[v] - q.lane[v]);
    }
  }
}

// Rounds half to even, for 0 <= x <= 255: adding 1.5 * 2^(digits - 1) leaves no bits for a
// fraction. This requires that the compiler does not reassociate, which its flags for this file
// ensure.
template <class T>
Vector<T> round_to_even(Vector<T> x) {
  const T magic = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);
  return (x + magic) - magic;
}

template <class T>
void scatter_rows(const SweepTile<T>& tile, const Column<T>& column, T* to, int64_t stride) {
  alignas(64) T values[kTile<T>];
  for (int v = 0; v < kMicroVectors; ++v) store<T>(values + v * kLanes<T>, column.lane[v]);
  const int64_t left = tile.params->rows - tile.first_row;
  const int64_t live = left < kTile<T> ? left : kTile<T>;
  for (int lane = 0; lane < live; ++lane) to[(tile.first_row + lane) * stride] = values[lane];
}

}  // namespace

const int sweep_panel_columns = kMicroRows;

template <class T>
int64_t sweep_tile_rows() {
  return kTile<T>;
}

// Every column keeps its target here. Pruning it at this point would cost target^2 R_jj^2 / 2.
template <class T>
void score_panel(const SweepTile<T>& tile, const SweepPanel& panel, int64_t block_first) {
  const int64_t block_size = tile.params->block_size;
  sweep_panel<T>(tile, panel, [&](int64_t step, T pivot, const Column<T>& target) {
    Column<T> score;
    for (int v = 0; v < kMicroVectors; ++v) {
      const Vector<T> cost = target.lane[v] * pivot;
      score.lane[v] = cost * cost;
    }
    scatter_rows(tile, score, tile.scores + (step - block_first), block_size);
    return target;
  });
}

template <class T>
void round_panel(const SweepTile<T>& tile, const SweepPanel& panel) {
  typedef Vector<T> V;
  const ObsQuantizeParams<T>& params = *tile.params;
  const uint8_t* mask = prunes(params) ? params.kept : params.mask;
  const int64_t left = params.rows - tile.first_row;
  const int64_t live = left < kTile<T> ? left : kTile<T>;
  const T top = static_cast<T>((1 << params.bits) - 1);
  sweep_panel<T>(tile, panel, [&](int64_t step, T pivot, const Column<T>& target) {
    const int64_t j = params.perm[step];
    Column<T> q = target;
    if (params.bits > 0) {
      const int64_t group = params.group[j];
      const Column<T> scale = gather_rows(tile, params.scale + group, params.groups, T(1));
      const Column<T> zero = gather_rows(tile, params.zero_point + group, params.groups, T(0));
      Column<T> code;
      for (int v = 0; v < kMicroVectors; ++v) {
        V level = target.lane[v] / scale.lane[v] + zero.lane[v];
        level = level > T(0) ? level : V{};
        level = level < top ? level : broadcast<T>(top);
        code.lane[v] = round_to_even<T>(level);
        q.lane[v] = (code.lane[v] - zero.lane[v]) * scale.lane[v];
      }
      alignas(64) T codes[kTile<T>];
      for (int v = 0; v < kMicroVectors; ++v) store<T>(codes + v * kLanes<T>, code.lane[v]);
      for (int lane = 0; lane < live; ++lane) {
        params.codes[(tile.first_row + lane) * params.d + j] = static_cast<uint8_t>(codes[lane]);
      }
    }
    if (mask != nullptr) {
      alignas(64) T keep[kTile<T>] = {};
      for (int lane = 0; lane < live; ++lane) {
        keep[lane] = T(mask[(tile.first_row + lane) * params.d + j] != 0);
      }
      for (int v = 0; v < kMicroVectors; ++v) {
        q.lane[v] = load<T>(keep + v * kLanes<T>) > T(0) ? q.lane[v] : V{};
      }
    }
    for (int v = 0; v < kMicroVectors; ++v) {
      const V missed = (target.lane[v] - q.lane[v]) * pivot;
      T* loss = tile.loss + v * kLanes<T>;
      store<T>(loss, load<T>(loss) + T(0.5) * missed * missed);
    }
    scatter_rows(tile, q, params.quantized + j, params.d);
    return q;
  });
}

#define SBC_INSTANTIATE(T)                                                       \
  template int64_t sweep_tile_rows<T>();                                         \
  template void score_panel<T>(const SweepTile<T>&, const SweepPanel&, int64_t); \
  template void round_panel<T>(const SweepTile<T>&, const SweepPanel&);
SBC_INSTANTIATE(float)
SBC_INSTANTIATE(double)
#undef SBC_INSTANTIATE

}  // namespace SBC_ISA
}  // namespace sbc
