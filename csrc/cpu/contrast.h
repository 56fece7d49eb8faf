// the tiles of a similarity matrix of float32 rows: what the loss on a CPU computes with vectors of one width
#pragma once

#include <cstdint>

// other compilers and processors have not been measured: the operators are not registered there
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FASTCLR_X86_LEVELS
#endif

namespace fastclr::cpu {

// No tile has more rows or columns.
inline constexpr int64_t kMaxTile = 256;

// exp(s_ij) of a tile, s_ij = scale <row_i, column_j>; 0 where i and j are one row or the two views of one sample
struct Tile {
  const float* rows;     // the tile's rows, `stride` floats apart
  const float* columns;  // its columns side by side: in groups of Kernels::columns, [group][dim][columns]
  int64_t stride, dim;   // length of a row
  int64_t first_row, first_column, height, width;
  int64_t pairs;                // rows i and i + pairs are the two views of a sample
  float scale_high, scale_low;  // log2(e) / tau in two parts
  float* out;                   // [height][out_stride], or null
  int64_t out_stride;
  const float *row_factor, *column_factor;  // out is multiplied by their sum, unless they are null
  double *row_sum, *column_sum;             // [height], [width]: sums of the unscaled exponentials, or null
};

// out += a b, [height, depth] x [depth, width], where a(i, k) = a[i * a_row + k * a_column]
struct Product {
  const float *a, *b;
  int64_t a_row, a_column, b_stride, height, depth, width;
  float* out;
  int64_t out_stride;
  bool fresh;  // write instead of adding
};

// the last step of one row: g = scale (sum - pull partner), then its part along the row is removed
struct Projection {
  const float *row, *partner;
  int64_t dim, padded;
  float pull, scale, inverse;  // inverse length of the row, 0 for no gradient
  float* sum;                  // [padded]; overwritten
  float* out;                  // [dim]
};

// The loops of one instruction set. Memory that they read or write ends on a multiple of `rows` rows, `columns`
// columns.
struct Kernels {
  int64_t rows, columns;  // of a microtile
  // writes u / max(|u|, 1e-12), zeros up to `padded`; returns the inverse length
  double (*normalise)(const float* u, int64_t dim, int64_t padded, float* row);
  double (*dot)(const float* a, const float* b, int64_t dim);
  void (*exponentials)(const Tile& tile);
  void (*scale)(const Tile& tile);  // what `exponentials` does with factors to a tile that lies in `out` already
  void (*multiply)(const Product& product);
  double (*project)(const Projection& row);  // returns <g, row>
};

// for vectors of `lanes` floats: 4, 8, 16; 0 for the widest that this processor has
const Kernels* contrast_kernels(int64_t lanes);

}  // namespace fastclr::cpu
