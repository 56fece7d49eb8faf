// the loops behind contrast.h, written for vectors of any width; contrast.cpp compiles them for each instruction set
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "../math/hd.h"
#include "contrast.h"

namespace fastclr::cpu {

template <int kLanes>
struct Vectors {
  typedef float Float __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
  typedef uint32_t Int __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
  typedef float Half __attribute__((vector_size(2 * kLanes), aligned(4), may_alias));
  typedef double Double __attribute__((vector_size(4 * kLanes), aligned(8), may_alias));
};

// 2^x for |x| <= 126: the power of the nearest integer, times a polynomial of the rest
template <int kLanes>
FASTCLR_HD typename Vectors<kLanes>::Float exp2_of(typename Vectors<kLanes>::Float x) {
  using Float = typename Vectors<kLanes>::Float;
  using Int = typename Vectors<kLanes>::Int;
  const Float magic = Float{} + 12582912.0f;  // 1.5 * 2^23: the sum's last bits are the integer
  const Float shifted = x + magic;
  const Float rest = x - (shifted - magic);
  Float p = rest * 1.535336188319500e-4f + 1.339887440266574e-3f;
  p = p * rest + 9.618437357674640e-3f;
  p = p * rest + 5.550332471162809e-2f;
  p = p * rest + 2.402264791363012e-1f;
  p = p * rest + 6.931472028550421e-1f;
  p = p * rest + 1.0f;
  return reinterpret_cast<Float>(reinterpret_cast<Int>(p) + (reinterpret_cast<Int>(shifted) << 23));
}

template <int kLanes, int kRows>
struct Loops {
  using Float = typename Vectors<kLanes>::Float;
  using Half = typename Vectors<kLanes>::Half;
  using Double = typename Vectors<kLanes>::Double;
  static constexpr int kColumns = 2 * kLanes;

  // not templates of the vector's type: as an argument it would lose its alignment
  FASTCLR_HD static Float load(const float* p) { return *reinterpret_cast<const Float*>(p); }
  FASTCLR_HD static void store(float* p, Float v) { *reinterpret_cast<Float*>(p) = v; }

  // sum_k a(r, k) b(k, ...) for kRows rows and two vectors of columns, added to c
  FASTCLR_HD static void microtile(
      const float* __restrict a, int64_t a_row, int64_t a_column, const float* __restrict b, int64_t b_stride,
      int64_t depth, Float (&c)[kRows][2]) {
    for (int64_t k = 0; k < depth; ++k) {
      const Float b0 = load(b + k * b_stride), b1 = load(b + k * b_stride + kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const float s = a[r * a_row + k * a_column];
        c[r][0] += s * b0;
        c[r][1] += s * b1;
      }
    }
  }

  FASTCLR_HD static double total(Float v) {
    double sum = 0.0;
    for (int i = 0; i < kLanes; ++i) sum += static_cast<double>(v[i]);
    return sum;
  }

  FASTCLR_HD static Double widen(const float* p) {
    return __builtin_convertvector(*reinterpret_cast<const Half*>(p), Double);
  }

  FASTCLR_HD static double dot(const float* a, const float* b, int64_t dim) {
    Double sums = {};
    int64_t k = 0;
    for (; k + kLanes / 2 <= dim; k += kLanes / 2) sums += widen(a + k) * widen(b + k);
    double sum = 0.0;
    for (int i = 0; i < kLanes / 2; ++i) sum += sums[i];
    for (; k < dim; ++k) sum += static_cast<double>(a[k]) * static_cast<double>(b[k]);
    return sum;
  }

  FASTCLR_HD static double normalise(const float* u, int64_t dim, int64_t padded, float* row) {
    const double length = std::sqrt(dot(u, u, dim));
    double inverse = 1.0 / (length > 1e-12 ? length : 1e-12);
    if (!(length <= std::numeric_limits<double>::max())) inverse = std::numeric_limits<double>::quiet_NaN();
    // the exponential keeps only the usual NaN, not those with other bits
    if (inverse != inverse) {
      for (int64_t k = 0; k < dim; ++k) row[k] = std::numeric_limits<float>::quiet_NaN();
    } else {
      for (int64_t k = 0; k < dim; ++k) row[k] = static_cast<float>(u[k] * inverse);
    }
    for (int64_t k = dim; k < padded; ++k) row[k] = 0.0f;
    return inverse;
  }

  FASTCLR_HD static void exponentials(const Tile& t) {
    // sums of a row stay apart by lane: one addition per microtile instead of a sum across
    alignas(64) float row_sums[kMaxTile * kLanes];
    if (t.row_sum != nullptr) std::memset(row_sums, 0, sizeof(float) * kLanes * static_cast<size_t>(t.height));
    const int64_t end = 2 * t.pairs;
    for (int64_t j = 0; j < t.width; j += kColumns) {
      Double column_sums[4] = {};
      const int64_t column = t.first_column + j;
      for (int64_t i = 0; i < t.height; i += kRows) {
        Float c[kRows][2] = {};
        microtile(t.rows + i * t.stride, t.stride, 1, t.columns + j * t.dim, kColumns, t.dim, c);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          for (int h = 0; h < 2; ++h) c[r][h] = exp2_of<kLanes>(c[r][h] * t.scale_high + c[r][h] * t.scale_low);
        }
        const int64_t row = t.first_row + i;
        const auto meets = [&](int64_t lag) { return column + kColumns > row + lag && column < row + kRows + lag; };
        if (meets(0) || meets(t.pairs) || meets(-t.pairs) || row + kRows > end || column + kColumns > end) {
          mask(row, column, t.pairs, c);
        }
        if (t.row_sum != nullptr) {
          Float down[2] = {c[0][0], c[0][1]};
#pragma GCC unroll 16
          for (int r = 1; r < kRows; ++r) {
            down[0] += c[r][0];
            down[1] += c[r][1];
          }
          const int64_t rows = t.height - i < kRows ? t.height - i : kRows;
          for (int64_t r = 0; r < rows; ++r) {
            float* sum = row_sums + kLanes * (i + r);
            store(sum, load(sum) + (c[r][0] + c[r][1]));
          }
          const float* flat = reinterpret_cast<const float*>(down);
          for (int q = 0; q < 4; ++q) column_sums[q] += widen(flat + q * kLanes / 2);
        }
        if (t.row_factor != nullptr) multiply_by_factors(t.row_factor + i, t.column_factor + j, c);
        if (t.out != nullptr) {
#pragma GCC unroll 16
          for (int r = 0; r < kRows; ++r) {
            store(t.out + (i + r) * t.out_stride + j, c[r][0]);
            store(t.out + (i + r) * t.out_stride + j + kLanes, c[r][1]);
          }
        }
      }
      if (t.row_sum != nullptr) {
        const int64_t columns = t.width - j < kColumns ? t.width - j : kColumns;
        for (int64_t i = 0; i < columns; ++i) {
          t.column_sum[j + i] = column_sums[i / (kLanes / 2)][i % (kLanes / 2)];
        }
      }
    }
    if (t.row_sum != nullptr) {
      for (int64_t i = 0; i < t.height; ++i) t.row_sum[i] = total(load(row_sums + kLanes * i));
    }
  }

  // zeros at i == j, at the other view of i's sample, and beyond the last row
  FASTCLR_HD static void mask(int64_t row, int64_t column, int64_t pairs, Float (&c)[kRows][2]) {
    alignas(64) float box[kRows][kColumns];
    for (int r = 0; r < kRows; ++r) {
      for (int h = 0; h < 2; ++h) store(box[r] + h * kLanes, c[r][h]);
      const int64_t i = row + r, partner = i < pairs ? i + pairs : i - pairs;
      for (int64_t s = 0; s < kColumns; ++s) {
        const int64_t j = column + s;
        if (j == i || j == partner || i >= 2 * pairs || j >= 2 * pairs) box[r][s] = 0.0f;
      }
      for (int h = 0; h < 2; ++h) c[r][h] = load(box[r] + h * kLanes);
    }
  }

  FASTCLR_HD static void multiply_by_factors(const float* row, const float* column, Float (&c)[kRows][2]) {
    const Float f0 = load(column), f1 = load(column + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      c[r][0] *= f0 + row[r];
      c[r][1] *= f1 + row[r];
    }
  }

  FASTCLR_HD static void scale(const Tile& t) {
    for (int64_t i = 0; i < t.height; ++i) {
      const float factor = t.row_factor[i];
      for (int64_t j = 0; j < t.width; j += kLanes) {
        float* p = t.out + i * t.out_stride + j;
        store(p, load(p) * (load(t.column_factor + j) + factor));
      }
    }
  }

  FASTCLR_HD static void multiply(const Product& p) {
    for (int64_t j = 0; j < p.width; j += kColumns) {
      for (int64_t i = 0; i < p.height; i += kRows) {
        float* out = p.out + i * p.out_stride + j;
        Float c[kRows][2] = {};
        if (!p.fresh) {
#pragma GCC unroll 16
          for (int r = 0; r < kRows; ++r) {
            c[r][0] = load(out + r * p.out_stride);
            c[r][1] = load(out + r * p.out_stride + kLanes);
          }
        }
        microtile(p.a + i * p.a_row, p.a_row, p.a_column, p.b + j, p.b_stride, p.depth, c);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          store(out + r * p.out_stride, c[r][0]);
          store(out + r * p.out_stride + kLanes, c[r][1]);
        }
      }
    }
  }

  FASTCLR_HD static double project(const Projection& p) {
    Float along = {};
    for (int64_t k = 0; k < p.padded; k += kLanes) {
      const Float g = (load(p.sum + k) - p.pull * load(p.partner + k)) * p.scale;
      store(p.sum + k, g);
      along += g * load(p.row + k);
    }
    const double dot = total(along);
    const float length = static_cast<float>(dot);
    for (int64_t k = 0; k < p.dim; ++k) p.out[k] = (p.sum[k] - length * p.row[k]) * p.inverse;
    return dot;
  }
};

}  // namespace fastclr::cpu
