#include "obs_quantize/obs_quantize.h"

#include <limits>
#include <numeric>

#include "common/aligned.h"
#include "common/threads.h"
#include "obs_quantize/cpu.h"

namespace sbc {
namespace {

// A panel never crosses a block boundary: the mask of a block is chosen before its first panel is
// rounded.
std::vector<SweepPanel> plan_panels(int64_t d, int64_t block_size, int columns) {
  std::vector<SweepPanel> panels;
  int64_t offset = 0;
  for (int64_t block = 0; block < d; block += block_size) {
    const int64_t end = std::min(d, block + block_size);
    for (int64_t first = block; first < end; first += columns) {
      const int width = static_cast<int>(std::min<int64_t>(columns, end - first));
      panels.push_back({first, width, offset});
      offset += (first + width) * columns;
    }
  }
  return panels;
}

template <class T>
void pack_panel(const ObsQuantizeParams<T>& params, const SweepPanel& panel, int columns, T* to) {
  for (int64_t row = 0; row < panel.first + panel.width; ++row, to += columns) {
    for (int c = 0; c < columns; ++c) {
      to[c] = c < panel.width ? params.factor[row * params.d + panel.first + c] : T(0);
    }
  }
}

// A score that overflowed to NaN would break the order that sorting relies on, so it counts as the
// largest.
template <class T>
T ordered(T score) {
  return score == score ? score : std::numeric_limits<T>::infinity();
}

// Whether a weight may be kept: those that were zero beforehand may not.
template <class T>
bool may_stay(const ObsQuantizeParams<T>& params, int64_t row, int64_t column) {
  return params.mask == nullptr || params.mask[row * params.d + column] != 0;
}

// Prunes the weights with the `count` least scores of the block, over all rows. Of equal scores the
// earlier weight is pruned. Weights that may not stay go first, and go even beyond the count.
template <class T>
void prune_least(const ObsQuantizeParams<T>& params, const T* scores, int64_t first, int64_t width,
                 int64_t count) {
  std::vector<int64_t> places(params.rows * width);
  std::iota(places.begin(), places.end(), 0);
  const auto stays = [&](int64_t place) {
    return may_stay(params, place / width, params.perm[first + place % width]);
  };
  const auto score = [&](int64_t place) {
    return stays(place) ? ordered(scores[place / width * params.block_size + place % width])
                        : T(-1);
  };
  std::nth_element(places.begin(), places.begin() + count, places.end(), [&](int64_t a, int64_t b) {
    return score(a) < score(b) || (score(a) == score(b) && a < b);
  });
  for (int64_t i = 0; i < params.rows * width; ++i) {
    const int64_t row = places[i] / width, j = params.perm[first + places[i] % width];
    params.kept[row * params.d + j] = i >= count && stays(places[i]);
  }
}

// Keeps the weights with the keep_n greatest scores in every of_m columns of one row, of those that
// may stay.
template <class T>
void prune_pattern(const ObsQuantizeParams<T>& params, const T* scores, int64_t row, int64_t first,
                   int64_t width) {
  std::vector<int64_t> places(params.of_m);
  const auto stays = [&](int64_t place) {
    return may_stay(params, row, params.perm[first + place]);
  };
  const auto score = [&](int64_t place) {
    return stays(place) ? ordered(scores[row * params.block_size + place]) : T(-1);
  };
  for (int64_t start = 0; start < width; start += params.of_m) {
    std::iota(places.begin(), places.end(), start);
    std::stable_sort(places.begin(), places.end(),
                     [&](int64_t a, int64_t b) { return score(a) > score(b); });
    for (int64_t i = 0; i < params.of_m; ++i) {
      params.kept[row * params.d + params.perm[first + places[i]]] =
          i < params.keep_n && stays(places[i]);
    }
  }
}

}  // namespace

template <class T>
void obs_quantize(const ObsQuantizeParams<T>& params, Isa isa, int threads) {
  const auto score_panel = SBC_SELECT_ISA(isa, score_panel<T>);
  const auto round_panel = SBC_SELECT_ISA(isa, round_panel<T>);
  const int columns = SBC_SELECT_ISA(isa, sweep_panel_columns);
  const int64_t tile_rows = SBC_SELECT_ISA(isa, sweep_tile_rows<T>)();
  const int64_t d = params.d, tiles = (params.rows + tile_rows - 1) / tile_rows;

  const std::vector<SweepPanel> panels = plan_panels(d, params.block_size, columns);
  const int64_t packed_size =
      panels.empty() ? 0
                     : panels.back().offset + (panels.back().first + panels.back().width) * columns;
  const AlignedArray<T> packed = aligned_array<T>(packed_size);
  parallel_for(static_cast<int64_t>(panels.size()), threads, [&](int64_t p, int) {
    pack_panel(params, panels[p], columns, packed.get() + panels[p].offset);
  });

  // The errors of all tiles are kept only if a block has to wait for all rows.
  const int64_t tiles_kept = prunes(params) ? tiles : std::min<int64_t>(tiles, threads);
  const AlignedArray<T> errors = aligned_array<T>(tiles_kept * d * tile_rows);
  const AlignedArray<T> losses = aligned_array<T>(tiles * tile_rows);
  std::fill_n(losses.get(), tiles * tile_rows, T(0));
  const AlignedArray<T> scores =
      aligned_array<T>(prunes(params) ? params.rows * params.block_size : 0);
  const auto tile_at = [&](int64_t tile, int64_t slot) {
    return SweepTile<T>{&params,          packed.get(),
                        tile * tile_rows, errors.get() + slot * d * tile_rows,
                        scores.get(),     losses.get() + tile * tile_rows};
  };

  if (!prunes(params)) {
    parallel_for(tiles, threads, [&](int64_t tile, int worker) {
      const SweepTile<T> mine = tile_at(tile, worker);
      for (const SweepPanel& panel : panels) round_panel(mine, panel);
    });
  } else {
    size_t next = 0;
    int64_t pruned = 0;
    for (int64_t first = 0; first < d; first += params.block_size) {
      const int64_t width = std::min(params.block_size, d - first);
      const size_t begin = next;
      while (next < panels.size() && panels[next].first < first + width) ++next;
      parallel_for(tiles, threads, [&](int64_t tile, int) {
        for (size_t p = begin; p < next; ++p) score_panel(tile_at(tile, tile), panels[p], first);
      });
      if (params.of_m > 0) {
        parallel_for(params.rows, threads, [&](int64_t row, int) {
          prune_pattern(params, scores.get(), row, first, width);
        });
      } else {
        // Each block prunes its share of the quota, such that the last one ends exactly on it.
        const int64_t due = static_cast<int64_t>(
            static_cast<long double>(params.num_pruned) * (first + width) / d + 0.5L);
        const int64_t count = std::min(due - pruned, params.rows * width);
        prune_least(params, scores.get(), first, width, count);
        pruned += count;
      }
      parallel_for(tiles, threads, [&](int64_t tile, int) {
        for (size_t p = begin; p < next; ++p) round_panel(tile_at(tile, tile), panels[p]);
      });
    }
  }
  std::copy_n(losses.get(), params.rows, params.loss);
}

template void obs_quantize<float>(const ObsQuantizeParams<float>&, Isa, int);
template void obs_quantize<double>(const ObsQuantizeParams<double>&, Isa, int);

}  // namespace sbc
