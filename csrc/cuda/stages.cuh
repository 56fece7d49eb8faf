// The stages of a view, each computed by a block for some of its rows. A canvas holds three planes of size * size
// floats, in shared memory for small views and in global memory for large ones. Sums use the same order as in the CPU
// back end, so that both round alike.
#pragma once

#include "../math/jitter.h"
#include "../math/resize.h"
#include "batch.cuh"

namespace fastclr::cuda {

constexpr int kTapColumns = 512;    // columns whose taps are in shared memory at a time
constexpr int kMixedFloats = 7680;  // source columns, mixed by the vertical taps, that are in shared memory at a time

// the elements of lines of `width` that one thread of the block visits, without a division per element
struct Walk {
  int y, x, rows, columns, width;

  __device__ explicit Walk(int width)
      : y(static_cast<int>(threadIdx.x) / width),
        x(static_cast<int>(threadIdx.x) % width),
        rows(static_cast<int>(blockDim.x) / width),
        columns(static_cast<int>(blockDim.x) % width),
        width(width) {}

  __device__ void next() {
    y += rows;
    x += columns;
    if (x >= width) {
      x -= width;
      ++y;
    }
  }
};

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
#pragma unroll 1
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
#pragma unroll 1
  for (int t = 0; t < across.count; ++t, first += stride.column) {
    const float weight = tap_weight(across, t);
    sum.r += weight * mix_column(first, stride.row, down);
    sum.g += weight * mix_column(first + stride.channel, stride.row, down);
    sum.b += weight * mix_column(first + 2 * stride.channel, stride.row, down);
  }
  return sum;
}

struct alignas(16) Four {
  float value[4];
};

// four neighbouring bytes: two aligned words, or where these might reach beyond the data, the first `count` one by one
__device__ inline uint32_t load_four(const uint8_t* from, bool inside, int count) {
  if (inside) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(from);
    const uint32_t* word = reinterpret_cast<const uint32_t*>(address & ~uintptr_t{3});
    return static_cast<uint32_t>((uint64_t{word[1]} << 32 | word[0]) >> 8 * (address & 3));
  }
  uint32_t four = 0;
#pragma unroll 1
  for (int i = 0; i < count && i < 4; ++i) four |= uint32_t{from[i]} << 8 * i;
  return four;
}

__device__ inline float byte_of(uint32_t word, int k) { return static_cast<float>(word >> 8 * k & 255); }

// mix_column for four neighbouring bytes at a time
__device__ inline Four mix_four(const uint8_t* first, int64_t stride, const Tap& tap, bool inside, int count) {
  Four sum;
  float a = tap_weight(tap, 0);
  uint32_t from = load_four(first, inside, count);
  for (int k = 0; k < 4; ++k) sum.value[k] = a * byte_of(from, k);
  if (tap.count > 1) {
    a = tap_weight(tap, 1);
    from = load_four(first + stride, inside, count);
    for (int k = 0; k < 4; ++k) sum.value[k] += a * byte_of(from, k);
  }
  int t = 2;
#pragma unroll 1
  for (; t + 1 < tap.count; t += 2) {
    a = tap_weight(tap, t);
    from = load_four(first + t * stride, inside, count);
    const float b = tap_weight(tap, t + 1);
    const uint32_t next = load_four(first + (t + 1) * stride, inside, count);
    for (int k = 0; k < 4; ++k) sum.value[k] += a * byte_of(from, k) + b * byte_of(next, k);
  }
  if (t < tap.count) {
    a = tap_weight(tap, t);
    from = load_four(first + t * stride, inside, count);
    for (int k = 0; k < 4; ++k) sum.value[k] += a * byte_of(from, k);
  }
  return sum;
}

// the source columns that some output columns need, as they lie in shared memory once the vertical taps have mixed
// them: for each output row one line of pixels, or three of channels
struct Mixed {
  int origin;         // first source column
  int lines, length;  // per output row; values of a line
  int pitch;          // from line to line
  int column, channel;
  float* value;

  __device__ int row() const { return lines * pitch; }
};

// the taps of neighbouring columns ascend, or descend in a flipped view
__device__ inline Mixed plan_mixed(bool planar, const Tap* across, int columns, float* value) {
  const bool ascends = across[0].start <= across[columns - 1].start;
  const Tap &first = across[ascends ? 0 : columns - 1], &last = across[ascends ? columns - 1 : 0];
  const int span = last.start + last.count - first.start, length = planar ? span : 3 * span;
  const int pitch = (length + 3) & ~3;
  return {first.start, planar ? 3 : 1, length, pitch, planar ? 1 : 3, planar ? pitch : 1, value};
}

// mixes the source columns for `rows` output rows, whose vertical taps are those of `down`
__device__ inline void mix_rows(
    const Batch& batch, const uint8_t* box, const Strides& stride, const Mixed& mixed, const Tap* down, int rows) {
  for (Walk walk(mixed.pitch / 4); walk.y < rows * mixed.lines; walk.next()) {
    const int line = mixed.lines == 1 ? 0 : walk.y % 3, row = mixed.lines == 1 ? walk.y : walk.y / 3;
    const uint8_t* first = box + down[row].start * stride.row + mixed.origin * stride.column + line * stride.channel;
    first += 4 * walk.x;
    const bool inside =
        first >= batch.data + 4 && first + (down[row].count - 1) * stride.row + 8 <= batch.data + batch.bytes;
    *reinterpret_cast<Four*>(mixed.value + walk.y * mixed.pitch + 4 * walk.x) =
        mix_four(first, stride.row, down[row], inside, mixed.length - 4 * walk.x);
  }
}

// one output pixel of the mixed columns
__device__ inline Pixel mix_across(const Mixed& mixed, int row, const Tap& across) {
  const float* from = mixed.value + row * mixed.row() + (across.start - mixed.origin) * mixed.column;
  Pixel sum = {0.0f, 0.0f, 0.0f};
  for (int t = 0; t < across.count; ++t, from += mixed.column) {
    const float weight = tap_weight(across, t);
    sum.r += weight * from[0];
    sum.g += weight * from[mixed.channel];
    sum.b += weight * from[2 * mixed.channel];
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

// crop, resize, flip and the operations before the contrast, for `rows` rows from `top` on; returns this thread's sums
// for the contrast. mixed has room for kMixedFloats and is aligned to 16 bytes, taps for rows + min(size, kTapColumns).
__device__ inline Sums resize_rows(
    const Batch& batch, const View& view, const Jitter& jitter, int top, int rows, float* mixed_floats, Tap* taps,
    float* canvas) {
  const Box box = read_box(view.row);
  const int64_t height = view.source.height, width = view.source.width;
  const Strides stride = batch.planar ? Strides{width, 1, height * width} : Strides{3 * width, 3, 1};
  const uint8_t* first = view.source.bytes + box.top * stride.row + box.left * stride.column;
  const int size = batch.size, plane = batch.pixels();
  const Tap* across = taps + rows;
  Sums sums = {0, 0, 0};
  for (int left = 0; left < size; left += kTapColumns) {
    const int columns = size - left < kTapColumns ? size - left : kTapColumns;
    fill_taps(batch, view, box, top, rows, left, columns, taps);
    const Mixed mixed = plan_mixed(batch.planar, across, columns, mixed_floats);
    // of a very wide crop not one row fits: then each pixel mixes its own columns
    const int fit = kMixedFloats / mixed.row(), step = fit < 1 ? rows : fit;
    for (int done = 0; done < rows; done += step) {
      const int count = rows - done < step ? rows - done : step;
      if (fit > 0) mix_rows(batch, first, stride, mixed, taps + done, count);
      __syncthreads();
      for (Walk walk(columns); walk.y < count; walk.next()) {
        const Pixel resized = fit > 0 ? mix_across(mixed, walk.y, across[walk.x])
                                      : resample(first, stride, taps[done + walk.y], across[walk.x]);
        const int position = (top + done + walk.y) * size + left + walk.x;
        const Pixel p = apply_jitter(jitter, 0, jitter.contrast_at, {0.0f, 0.0f, 0.0f}, resized);
        canvas[position] = p.r;
        canvas[plane + position] = p.g;
        canvas[2 * plane + position] = p.b;
        if (jitter.on()) sums = add_pixel(batch.style, sums, p);
      }
      __syncthreads();  // before the next rows are mixed
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

// element y of a column of the canvas, blurred along it; away from the edges, without looking for them
__device__ inline float blur_down(const Batch& batch, const float* column, int y, const float* weight, int reach) {
  const int size = batch.size;
  if (y < reach || y + reach >= size) return blurred_value(batch, column, y, size, weight, reach);
  const float *above = column + y * size, *below = above;
  float sum = weight[0] * *above;
  for (int d = 1; d <= reach; ++d) {
    above -= size;
    below += size;
    sum += weight[d] * (*above + *below);
  }
  return sum;
}

// blurs and stores `rows` rows from `top` on; middle has room for rows * (size + 2 * reach): lines with their padding
__device__ inline void blur_rows(
    const Batch& batch, const View& view, const float* weight, int reach, int top, int rows, const float* canvas,
    float* middle) {
  const int size = batch.size, pitch = size + 2 * reach;
  const Walk padded(pitch), pixels(size);
  for (int c = 0; c < 3; ++c) {
    const float* plane = canvas + int64_t{c} * batch.pixels();
    for (Walk walk = padded; walk.y < rows; walk.next()) {
      const int x = walk.x - reach;
      const bool outside = batch.style != kTorchvision && (x < 0 || x >= size);
      middle[walk.y * pitch + walk.x] =
          outside ? 0.0f : blur_down(batch, plane + reflect(x, size), top + walk.y, weight, reach);
    }
    __syncthreads();
    for (Walk walk = pixels; walk.y < rows; walk.next()) {
      const float* at = middle + walk.y * pitch + walk.x + reach;
      float sum = weight[0] * *at;
      for (int d = 1; d <= reach; ++d) sum += weight[d] * (at[-d] + at[d]);
      store(batch, view, c, (top + walk.y) * size + walk.x, sum);
    }
    __syncthreads();  // before the next channel overwrites middle
  }
}

}  // namespace fastclr::cuda
