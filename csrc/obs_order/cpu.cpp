#include "obs_order/cpu.h"

#include "common/scalar_math.h"
#include "common/tiles.h"

// Removing weights one at a time is a pivoted Cholesky factorisation of G = H^-1 whose pivot is the
// weight with the least w_p^2 / G_pp. It is blocked like LAPACK's pivoted Cholesky (xPSTRF):
//
//   panel     takes up to kPanel pivots. The column of a pivot is read from the trailing matrix as
//             it was before the panel, and corrected by the earlier columns of the panel only. The
//             same sweep updates weights, diagonal and scores, and finds the next pivot.
//   trailing  is one rank-kPanel update of the upper triangle.
//   compact   moves the first survivors into the holes that pivots left further on, so that the
//             triangle stays dense and loses its first rows. The moves are applied to each tile
//             just before its update reads it.
//
// A row takes d^3/3 flops, nearly all of them in tile_update. Weights are placed in the order of
// their scores, the least first. Most pivots are then near the front, where a column of the
// triangle is short and the rest of it is a row, which is contiguous in memory.

namespace sbc {
namespace SBC_ISA {
namespace {

constexpr int kMaxPanel = 96;

template <class T>
constexpr T kInfinity = static_cast<T>(__builtin_inf());

template <class T>
constexpr T kLargest = sizeof(T) == 4 ? static_cast<T>(__FLT_MAX__) : static_cast<T>(__DBL_MAX__);

// A survivor from the front of the matrix that fills a pivot's hole.
struct Move {
  int64_t from, to;
};

template <class T>
struct Row {
  TileTriangle<T> triangle;
  T* panel;        // [tiles][kMaxPanel][kTile]: the columns of L, tile by tile
  T* moved;        // [kMaxPanel][padded d]: columns of the triangle on the move
  T* weight;       // [padded d]
  T* diagonal;     // [padded d] of the trailing matrix
  T* floor;        // [padded d]: lower bound of the diagonal, against rounding errors
  T* alive;        // [padded d]: 1 or 0
  T* barred;       // [padded d], added to a score: 0, or infinite where nothing may be removed
  T* column;       // [padded d]
  int64_t* ids;    // [d]: the weight at each place
  int64_t* place;  // [d]: the place of each weight
  int64_t* first;  // [tiles + 1]: the first move into each tile
  int64_t* left;   // [num_groups]: how many weights each group may still lose
  int64_t d;
  int64_t start;  // places [start, d) are in use
  T unit;         // scale of `weight`: the value that 1 stands for
};

// Whole pairs of tiles: eliminate() takes two at a time.
template <class T>
int64_t padded(int64_t d) {
  return (tile_count<T>(d) + 1) / 2 * 2 * kTile<T>;
}

template <class T>
int panel_width(int64_t n) {
  return n >= 768 ? 96 : n >= 384 ? 48 : 24;
}

// row.ids has the weight at each place.
template <class T>
void start_row(const ObsOrderParams<T>& params, int64_t r, Row<T>& row) {
  constexpr int tile = kTile<T>;
  const int64_t d = params.d;
  row.d = d, row.start = 0;
  row.triangle.tiles = tile_count<T>(d);
  for (int64_t i = 0; i < row.triangle.tiles * tile; ++i) {
    const T* from = i < d ? params.inverse_hessian + row.ids[i] * d : nullptr;
    for (int64_t jt = i / tile; jt < row.triangle.tiles; ++jt) {
      T* to = row.triangle.tile(i / tile, jt) + i % tile * tile;
      const int64_t live = i >= d ? 0 : d - jt * tile < tile ? d - jt * tile : tile;
      const int64_t* ids = row.ids + jt * tile;
      if (live == tile) {  // a loop the compiler can unroll
#pragma GCC unroll 24
        for (int j = 0; j < tile; ++j) to[j] = from[ids[j]];
        continue;
      }
      for (int64_t j = 0; j < live; ++j) to[j] = from[ids[j]];
      for (int64_t j = live; j < tile; ++j) to[j] = T(0);
    }
  }
  // Scales the largest weight to 1..2, so that no square of a weight worth comparing is lost to
  // underflow or overflow. A power of two: nothing is rounded.
  T largest = 0;
  for (int64_t i = 0; i < d; ++i) {
    const T size = __builtin_fabs(params.weight[r * d + i]);
    largest = size > largest ? size : largest;
  }
  int exponent = 0;
  __builtin_frexp(largest, &exponent);
  row.unit = static_cast<T>(__builtin_ldexp(1.0, exponent - 1));
  const T epsilon = sizeof(T) == 4 ? T(1.1920929e-07) : T(2.220446049250313e-16);
  for (int64_t i = 0; i < padded<T>(d); ++i) {
    const bool live = i < d;
    const int64_t id = live ? row.ids[i] : 0;
    row.weight[i] = live ? params.weight[r * d + id] / row.unit : T(0);
    row.barred[i] = live ? T(0) : kInfinity<T>;
    row.column[i] = T(0);
    row.diagonal[i] = live ? params.inverse_hessian[id * d + id] : T(1);
    row.floor[i] = row.diagonal[i] * epsilon;
    row.alive[i] = live ? T(1) : T(0);
    if (live) row.place[id] = i;
  }
  for (int64_t g = 0; g < params.num_groups; ++g) row.left[g] = params.quota[g];
  for (int64_t i = 0; i < d && params.group != nullptr; ++i) {
    if (row.left[params.group[row.ids[i]]] == 0) row.barred[i] = kInfinity<T>;
  }
}

template <class T>
inline void copy_tile_row(const T* from, T* to) {
#pragma GCC unroll 3
  for (int v = 0; v < kMicroVectors; ++v)
    store<T>(to + v * kLanes<T>, load<T>(from + v * kLanes<T>));
}

// The column (and row: the matrix is symmetric) of place p, as the last trailing update left it.
template <class T>
void gather_column(const Row<T>& row, int64_t p, T* column) {
  constexpr int tile = kTile<T>;
  const int64_t pt = p / tile, inside = p % tile, tiles = row.triangle.tiles;
  for (int64_t it = row.start / tile; it < pt; ++it) {
    const T* from = row.triangle.tile(it, pt) + inside;
    for (int i = 0; i < tile; ++i) column[it * tile + i] = from[i * tile];
  }
  const T* from = row.triangle.tile(pt, pt) + inside * tile;
  for (int64_t jt = pt; jt < tiles; ++jt, from += kTileElements<T>) {
    copy_tile_row(from, column + jt * tile);
  }
}

template <class T>
struct IntegerOf;
template <>
struct IntegerOf<float> {
  typedef int32_t type;
};
template <>
struct IntegerOf<double> {
  typedef int64_t type;
};

// The least score so far in each lane, and its place. Ties go to the lower place.
template <class T>
struct LeastScore {
  typedef typename IntegerOf<T>::type Integer;
  Vector<T> score = broadcast<T>(kInfinity<T>);
  Vector<Integer> place = Vector<Integer>{} - Integer{1};

  void see(Vector<T> weight, Vector<T> diagonal, Vector<T> barred, int64_t at) {
    const Vector<T> ratio = weight * weight / diagonal;
    const Vector<T> largest =
        broadcast<T>(kLargest<T>);  // also replaces NaN, which would read as "none left"
    const Vector<T> candidate = (ratio < largest ? ratio : largest) + barred;
    const Vector<Integer> less = candidate < score;
    score = less ? candidate : score;
    place = less ? Vector<Integer>{} + static_cast<Integer>(at) : place;
  }
  int64_t find() const {
    typedef Vector<Integer> I;
    I lane;
    for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
    Vector<T> best = score;
    I found = place + lane;
#pragma GCC unroll 4
    for (int distance = kLanes<T> / 2; distance > 0; distance /= 2) {
      const I partner = lane ^ static_cast<Integer>(distance);
      const Vector<T> other = __builtin_shuffle(best, partner);
      const I there = __builtin_shuffle(found, partner);
      const I better = (other < best) | ((other == best) & (there < found));
      best = better ? other : best;
      found = better ? there : found;
    }
    return best[0] < kInfinity<T> ? found[0] : -1;
  }
};

template <class T>
int64_t least_score(const Row<T>& row) {
  LeastScore<T> least;
  for (int64_t at = row.start / kLanes<T> * kLanes<T>; at < padded<T>(row.d); at += kLanes<T>) {
    least.see(load<T>(row.weight + at), load<T>(row.diagonal + at), load<T>(row.barred + at), at);
  }
  return least.find();
}

// Survivors of a group that has used up its quota are still updated but never chosen.
template <class T>
void bar_group(const ObsOrderParams<T>& params, Row<T>& row, int64_t group) {
  for (int64_t i = 0; i < params.d; ++i) {
    if (params.group[i] != group) continue;
    const int64_t place = row.place[i];
    if (place >= row.start && row.ids[place] == i) row.barred[place] = kInfinity<T>;
  }
}

// Removes place p as the panel's pivot number k. Returns the next place to remove.
template <class T>
int64_t eliminate(Row<T>& row, int64_t p, int k) {
  constexpr int tile = kTile<T>, vectors = kMicroVectors, lanes = kLanes<T>;
  typedef Vector<T> V;
  gather_column(row, p, row.column);
  T factors[kMaxPanel];
  const T* earlier = row.panel + (p / tile) * kMaxPanel * tile + p % tile;
  for (int j = 0; j < k; ++j) factors[j] = earlier[j * tile];
  const T scale = T(1) / square_root(row.diagonal[p]);
  const T step = row.weight[p] * scale;
  row.alive[p] = T(0);
  row.barred[p] = kInfinity<T>;
  row.diagonal[p] = T(1);
  LeastScore<T> least;
  // Two tiles at a time: their six sums are independent, which hides the latency of the FMAs.
  for (int64_t it = row.start / tile / 2 * 2; it < row.triangle.tiles; it += 2) {
    T* panel[2] = {row.panel + it * kMaxPanel * tile, row.panel + (it + 1) * kMaxPanel * tile};
    V sum[2][vectors];
#pragma GCC unroll 6
    for (int v = 0; v < 2 * vectors; ++v) {
      sum[v / vectors][v % vectors] = load<T>(row.column + it * tile + v * lanes);
    }
    for (int j = 0; j < k; ++j) {
      const V factor = broadcast<T>(factors[j]);
#pragma GCC unroll 6
      for (int v = 0; v < 2 * vectors; ++v) {
        sum[v / vectors][v % vectors] -=
            factor * load<T>(panel[v / vectors] + j * tile + v % vectors * lanes);
      }
    }
#pragma GCC unroll 6
    for (int v = 0; v < 2 * vectors; ++v) {
      const int64_t at = it * tile + v * lanes;
      const V l = sum[v / vectors][v % vectors] * scale * load<T>(row.alive + at);
      const V weight = load<T>(row.weight + at) - step * l;
      const V floor = load<T>(row.floor + at);
      V diagonal = load<T>(row.diagonal + at) - l * l;
      diagonal = diagonal > floor ? diagonal : floor;
      store<T>(panel[v / vectors] + k * tile + v % vectors * lanes, l);
      store<T>(row.weight + at, weight);
      store<T>(row.diagonal + at, diagonal);
      least.see(weight, diagonal, load<T>(row.barred + at), at);
    }
  }
  return least.find();
}

// Gathers the columns that move, as gather_column does, reading one tile after the other.
template <class T>
void gather_moved(const Row<T>& row, const Move* moves, int count, int64_t stride) {
  constexpr int tile = kTile<T>;
  for (int64_t it = row.start / tile; it < row.triangle.tiles; ++it) {
    for (int m = 0; m < count; ++m) {
      const int64_t p = moves[m].from, pt = p / tile;
      T* to = row.moved + m * stride + it * tile;
      if (it < pt) {
        const T* from = row.triangle.tile(it, pt) + p % tile;
        for (int i = 0; i < tile; ++i) to[i] = from[i * tile];
      } else {
        copy_tile_row(row.triangle.tile(pt, it) + p % tile * tile, to);
      }
    }
  }
}

// Chooses the moves that close the holes behind the first k places, and copies the columns that
// move before anything overwrites them. Returns the number of moves.
template <class T>
int plan_moves(Row<T>& row, int k, Move* moves) {
  const int64_t stay = row.start + k, stride = padded<T>(row.d);
  int count = 0;
  int64_t from = row.start;
  for (int64_t to = stay; to < row.d; ++to) {
    if (row.alive[to] != T(0)) continue;
    while (row.alive[from] == T(0)) ++from;
    moves[count++] = {from++, to};
  }
  gather_moved(row, moves, count, stride);
  for (int m = 0; m < count; ++m) {
    T* moved = row.moved + m * stride;
    for (int other = 0; other < count; ++other) moved[moves[other].to] = moved[moves[other].from];
  }
  return count;
}

template <class T>
void move_vectors(Row<T>& row, int k, const Move* moves, int count) {
  constexpr int tile = kTile<T>;
  for (int m = 0; m < count; ++m) {
    const int64_t from = moves[m].from, to = moves[m].to;
    row.weight[to] = row.weight[from];
    row.diagonal[to] = row.diagonal[from];
    row.floor[to] = row.floor[from];
    row.alive[to] = T(1);
    row.barred[to] = row.barred[from];
    row.ids[to] = row.ids[from];
    row.place[row.ids[to]] = to;
    const T* source = row.panel + (from / tile) * kMaxPanel * tile + from % tile;
    T* target = row.panel + (to / tile) * kMaxPanel * tile + to % tile;
    for (int j = 0; j < k; ++j) target[j * tile] = source[j * tile];
  }
  for (int64_t i = row.start; i < row.start + k; ++i) {
    row.weight[i] = T(0);
    row.diagonal[i] = T(1);
    row.alive[i] = T(0);
    row.barred[i] = kInfinity<T>;
    T* panel = row.panel + (i / tile) * kMaxPanel * tile + i % tile;
    for (int j = 0; j < k; ++j) panel[j * tile] = T(0);
  }
}

// Writes the moved columns into the tile (it, jt): as columns if `to` lies in jt, as rows if `to`
// lies in it. `first` to `last` are the moves into each tile, in ascending order of `to`.
template <class T>
void patch_tile(const Row<T>& row, const Move* moves, int64_t stride, int64_t it, int64_t jt,
                const int64_t* first) {
  constexpr int tile = kTile<T>;
  T* data = row.triangle.tile(it, jt);
  for (int64_t m = first[jt]; m < first[jt + 1]; ++m) {
    const T* moved = row.moved + m * stride + it * tile;
    T* to = data + moves[m].to % tile;
    for (int i = 0; i < tile; ++i) to[i * tile] = moved[i];
  }
  for (int64_t m = first[it]; m < first[it + 1]; ++m) {
    copy_tile_row(row.moved + m * stride + jt * tile, data + (moves[m].to % tile) * tile);
  }
}

template <class T>
void update_trailing(Row<T>& row, int k) {
  constexpr int tile = kTile<T>;
  Move moves[kMaxPanel];
  const int64_t stride = padded<T>(row.d), tiles = row.triangle.tiles;
  const int count = plan_moves(row, k, moves);
  move_vectors(row, k, moves, count);
  row.start += k;
  const int64_t begin = row.start / tile;
  int m = 0;
  for (int64_t it = begin; it < tiles; ++it) {
    while (m < count && moves[m].to < it * tile) ++m;
    row.first[it] = m;
  }
  row.first[tiles] = count;
  for (int64_t it = begin; it < tiles; ++it) {
    const T* left = row.panel + it * kMaxPanel * tile;
    for (int64_t jt = it; jt < tiles; ++jt) {
      patch_tile(row, moves, stride, it, jt, row.first);
      tile_update<T>(row.triangle.tile(it, jt), left, row.panel + jt * kMaxPanel * tile, k);
    }
  }
}

}  // namespace

template <class T>
int64_t order_scratch_elements(int64_t d) {
  const int64_t side = padded<T>(d);
  return TileTriangle<T>::elements(d) + 2 * kMaxPanel * side + 6 * side;
}

template <class T>
void order_row(const ObsOrderParams<T>& params, int64_t r, T* scratch, int64_t* places) {
  const int64_t side = padded<T>(params.d);
  Row<T> row;
  row.triangle.data = scratch;
  row.panel = scratch + TileTriangle<T>::elements(params.d);
  row.moved = row.panel + kMaxPanel * side;
  row.weight = row.moved + kMaxPanel * side;
  row.diagonal = row.weight + side;
  row.floor = row.diagonal + side;
  row.alive = row.floor + side;
  row.barred = row.alive + side;
  row.column = row.barred + side;
  row.ids = places;
  row.place = row.ids + params.d;
  row.first = row.place + params.d;
  row.left = row.first + params.d + 1;
  start_row(params, r, row);

  int32_t* order = params.order + r * params.num_pruned;
  T* loss = params.loss + r * params.num_pruned;
  for (int64_t done = 0; done < params.num_pruned;) {
    const int64_t left = params.num_pruned - done;
    const int width = panel_width<T>(row.d - row.start);
    const int k = left < width ? static_cast<int>(left) : width;
    int64_t p = least_score(row);
    for (int j = 0; j < k; ++j, ++done) {
      const T weight = row.weight[p] * row.unit;
      const int64_t id = row.ids[p];
      order[done] = static_cast<int32_t>(id);
      loss[done] = weight * weight / (T(2) * row.diagonal[p]);
      if (params.group != nullptr && --row.left[params.group[id]] == 0) {
        bar_group(params, row, params.group[id]);
      }
      p = eliminate(row, p, j);
    }
    if (done < params.num_pruned) update_trailing(row, k);
  }
}

template int64_t order_scratch_elements<float>(int64_t);
template int64_t order_scratch_elements<double>(int64_t);
template void order_row<float>(const ObsOrderParams<float>&, int64_t, float*, int64_t*);
template void order_row<double>(const ObsOrderParams<double>&, int64_t, double*, int64_t*);

}  // namespace SBC_ISA
}  // namespace sbc
