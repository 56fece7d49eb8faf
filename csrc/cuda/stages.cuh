// The stages of a view, each computed by a block for some of its rows. A canvas holds three planes of size * size
// floats, in shared memory for small views and in global memory for large ones. Sums use the same order as in the CPU
// back end, so that both round alike.
#pragma once

#include "../math/jitter.h"
#include "../math/resize.h"
#include "batch.cuh"

namespace fastclr::cuda {

constexpr int kTapColumns = 512;  // columns whose taps are in shared memory at a time

// sum over the block; partial has one element per thread, and the thread count is a power of two
__device__ inline int64_t block_sum(int64_t value, int64_t* partial) {
  partial[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  const int64_t sum = partial[0];
  __syncthreads();  // partial can be reused
  return sum;
}

// torchvision's contrast needs one mean, TensorFlow's three
__device__ inline Sums block_sums(Style style, Sums sums, int64_t* partial) {
  sums.r = block_sum(sums.r, partial);
  if (style == kTorchvision) return sums;
  sums.g = block_sum(sums.g, partial);
  sums.b = block_sum(sums.b, partial);
  return sums;
}

struct Strides {
  int64_t row, column, channel;
};

// one column of the source, mixed by the vertical taps
__device__ inline float mix_column(const uint8_t* first, int64_t stride, const Tap& tap) {
  float sum = tap_weight(tap, 0) * static_cast<float>(first[0]);
  if (tap.count > 1) sum += tap_weight(tap, 1) * static_cast<float>(first[stride]);
  int t = 2;
  for (; t + 1 < tap.count; t += 2) {
    const uint8_t* a = first + t * stride;
    sum += tap_weight(tap, t) * static_cast<float>(a[0]) + tap_weight(tap, t + 1) * static_cast<float>(a[stride]);
  }
  if (t < tap.count) sum += tap_weight(tap, t) * static_cast<float>(first[t * stride]);
  return sum;
}

__device__ inline Pixel resample(const uint8_t* box, const Strides& stride, const Tap& down, const Tap& across) {
  const uint8_t* first = box + down.start * stride.row + across.start * stride.column;
  Pixel sum = {0.0f, 0.0f, 0.0f};
  for (int t = 0; t < across.count; ++t, first += stride.column) {
    const float weight = tap_weight(across, t);
    sum.r += weight * mix_column(first, stride.row, down);
    sum.g += weight * mix_column(first + stride.channel, stride.row, down);
    sum.b += weight * mix_column(first + 2 * stride.channel, stride.row, down);
  }
  return sum;
}

// the taps of `rows` rows from `top` on, then those of `columns` columns from `left` on; synchronises before and after
__device__ inline void fill_taps(
    const Batch& batch, const View& view, const Box& box, int top, int rows, int left, int columns, Tap* taps) {
  const int size = batch.size;
  const bool flip = view.row[kFlip] != 0.0f;
  __syncthreads();  // all threads have finished with the previous columns' taps
  for (int i = threadIdx.x; i < rows + columns; i += blockDim.x) {
    const int x = left + i - rows;
    taps[i] = i < rows
                  ? resize_tap(batch.style, static_cast<int>(box.height), size, top + i, 1.0f)
                  : resize_tap(batch.style, static_cast<int>(box.width), size, flip ? size - 1 - x : x, 1.0f / 255.0f);
  }
  __syncthreads();
}

// crop, resize, flip and the operations before the contrast, for `rows` rows from `top` on; returns this
// thread's sums for the contrast. taps has room for rows + min(size, kTapColumns).
__device__ inline Sums resize_rows(
    const Batch& batch, const View& view, const Jitter& jitter, int top, int rows, Tap* taps, float* canvas) {
  const Box box = read_box(view.row);
  const int64_t height = view.source.height, width = view.source.width;
  const Strides stride = batch.planar ? Strides{width, 1, height * width} : Strides{3 * width, 3, 1};
  const uint8_t* first = view.source.bytes + box.top * stride.row + box.left * stride.column;
  const int size = batch.size, plane = batch.pixels();
  Tap* across = taps + rows;
  Sums sums = {0, 0, 0};
  for (int left = 0; left < size; left += kTapColumns) {
    const int columns = size - left < kTapColumns ? size - left : kTapColumns;
    fill_taps(batch, view, box, top, rows, left, columns, taps);
    for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
      const int y = i / columns, x = i % columns, position = (top + y) * size + left + x;
      const Pixel resized = resample(first, stride, taps[y], across[x]);
      const Pixel p = apply_jitter(jitter, 0, jitter.contrast_at, {0.0f, 0.0f, 0.0f}, resized);
      canvas[position] = p.r;
      canvas[plane + position] = p.g;
      canvas[2 * plane + position] = p.b;
      if (jitter.on()) sums = add_pixel(batch.style, sums, p);
    }
  }
  return sums;
}

// the remaining colour operations, for pixels first..last-1; without a blur it also writes the view, otherwise the
// result stays in the canvas
__device__ inline void colour_pixels(
    const Batch& batch, const View& view, const Jitter& jitter, Sums sums, int first, int last, bool blurred,
    float* canvas) {
  const int plane = batch.pixels();
  const Pixel offset = contrast_offset(batch.style, view.row[kContrast], sums, plane);
  const bool gray = view.row[kGray] != 0.0f;
  for (int i = first + threadIdx.x; i < last; i += blockDim.x) {
    Pixel p = {canvas[i], canvas[plane + i], canvas[2 * plane + i]};
    p = apply_jitter(jitter, jitter.contrast_at, 4, offset, p);
    if (gray) p = {luma(p), luma(p), luma(p)};
    if (batch.style != kTorchvision) p = clamp_pixel(p);
    if (blurred) {
      canvas[i] = p.r;
      canvas[plane + i] = p.g;
      canvas[2 * plane + i] = p.b;
    } else {
      store(batch, view, 0, i, p.r);
      store(batch, view, 1, i, p.g);
      store(batch, view, 2, i, p.b);
    }
  }
}

__device__ inline bool has_blur(const Batch& batch, const View& view) {
  return view.row[kSigma] > 0.0f && blur_radius(batch.size) > 0;
}

// fills weight[0..reach] and returns the reach of a view's blur; raw has as many elements
__device__ inline int blur_weights(const Batch& batch, const View& view, double* raw, float* weight) {
  const float sigma = view.row[kSigma];
  const int reach = blur_reach(sigma, blur_radius(batch.size));
  for (int d = threadIdx.x; d <= reach; d += blockDim.x) raw[d] = blur_weight(sigma, d);
  __syncthreads();
  double total = 0.0;
  for (int d = reach; d >= 0; --d) total += raw[d] * (d > 0 ? 2.0 : 1.0);
  for (int d = threadIdx.x; d <= reach; d += blockDim.x) weight[d] = static_cast<float>(raw[d] / total);
  __syncthreads();
  return reach;
}

// element i of a line of pixels, padded by reflection or, as in TensorFlow, with zeros
__device__ inline float at(const Batch& batch, const float* line, int i, int stride) {
  if (batch.style != kTorchvision && (i < 0 || i >= batch.size)) return 0.0f;
  return line[reflect(i, batch.size) * stride];
}

// element i of a line, blurred along it
__device__ inline float blurred_value(
    const Batch& batch, const float* line, int i, int stride, const float* weight, int reach) {
  float sum = weight[0] * line[i * stride];
  for (int d = 1; d <= reach; ++d) sum += weight[d] * (at(batch, line, i - d, stride) + at(batch, line, i + d, stride));
  return sum;
}

// blurs and stores `rows` rows from `top` on; middle has room for rows * size
__device__ inline void blur_rows(
    const Batch& batch, const View& view, const float* weight, int reach, int top, int rows, const float* canvas,
    float* middle) {
  const int size = batch.size;
  for (int c = 0; c < 3; ++c) {
    const float* plane = canvas + int64_t{c} * batch.pixels();
    for (int i = threadIdx.x; i < rows * size; i += blockDim.x) {
      middle[i] = blurred_value(batch, plane + i % size, top + i / size, size, weight, reach);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * size; i += blockDim.x) {
      const float sum = blurred_value(batch, middle + i / size * size, i % size, 1, weight, reach);
      store(batch, view, c, top * size + i, sum);
    }
    __syncthreads();  // before the next channel overwrites middle
  }
}

}  // namespace fastclr::cuda
