// Views of any number of channels: the arithmetic of csrc/math/planes.h. A block has a band of rows of one channel of
// one view; three kernels pass the planes on in global memory.
#pragma once

#include "../math/planes.h"
#include "kernels.cuh"

namespace fastclr::cuda {

// one call; views are [views, samples, channels, size, size], or with the channels last if interleaved
struct PlaneBatch {
  Batch batch;  // its normalisation is not used
  int channels;
  PlaneNormalize normalize;
};

// a range of planes (first.., channel by channel of one view after the other), and the sums of their bands
struct PlanePass {
  int64_t first;
  int bands, band_rows;
  float* canvas;  // [planes of the pass, size, size]
  int64_t* sums;  // [planes of the pass, bands]
};

struct PlaneBand {
  View view;
  int64_t index;  // index of the plane in the pass
  int channel, number, top, rows;
  float* canvas;
};

__device__ inline PlaneBand load_plane_band(const PlaneBatch& planes, const PlanePass& pass) {
  const Batch& batch = planes.batch;
  const int64_t index = blockIdx.x / pass.bands, plane = pass.first + index;
  const int number = static_cast<int>(blockIdx.x % pass.bands), top = number * pass.band_rows;
  const int rows = batch.size - top < pass.band_rows ? batch.size - top : pass.band_rows;
  return {
      load_view(batch, plane / planes.channels, planes.channels),
      index,
      static_cast<int>(plane % planes.channels),
      number,
      top,
      rows,
      pass.canvas + index * batch.pixels()};
}

__device__ inline int64_t plane_index(const PlaneBatch& planes, const View& view, int channel, int pixel) {
  const int64_t pixels = planes.batch.pixels();
  const int64_t inside =
      planes.batch.interleaved ? int64_t{planes.channels} * pixel + channel : int64_t{channel} * pixels + pixel;
  return view.slot * planes.channels * pixels + inside;
}

// solarises, normalises and writes one value
__device__ inline void store_plane(const PlaneBatch& planes, const View& view, int channel, int pixel, float x) {
  if (view.row[kSolarize] != 0.0f) x = solarize(x);
  const float mean = planes.normalize.mean[channel], scale = planes.normalize.scale[channel];
  if (mean != 0.0f || scale != 1.0f) x = (x - mean) * scale;
  write_element(planes.batch, plane_index(planes, view, channel, pixel), x);
}

__global__ void __launch_bounds__(kBandThreads, 3)
    augment_plane_resize_kernel(const __grid_constant__ PlaneBatch planes, const __grid_constant__ PlanePass pass) {
  const Batch& batch = planes.batch;
  const PlaneBand band = load_plane_band(planes, pass);
  if (!band.view.valid) return;
  int64_t* partial = reinterpret_cast<int64_t*>(shared_memory);
  Tap* taps = reinterpret_cast<Tap*>(partial + blockDim.x);
  const Jitter jitter = read_jitter(batch.style, band.view.row);
  const Box box = read_box(band.view.row);
  const int64_t height = band.view.source.height, width = band.view.source.width, channels = planes.channels;
  const int64_t row = batch.planar ? width : channels * width, column = batch.planar ? 1 : channels;
  const uint8_t* first = band.view.source.bytes + box.top * row + box.left * column;
  first += batch.planar ? band.channel * height * width : int64_t{band.channel};
  int64_t sum = 0;
  for (int left = 0; left < batch.size; left += kTapColumns) {
    const int columns = batch.size - left < kTapColumns ? batch.size - left : kTapColumns;
    fill_taps(batch, band.view, box, band.top, band.rows, left, columns, taps);
    for (int i = threadIdx.x; i < band.rows * columns; i += blockDim.x) {
      const int y = i / columns, x = i % columns;
      const Tap &down = taps[y], &across = taps[band.rows + x];
      const uint8_t* from = first + down.start * row + across.start * column;
      float value = 0.0f;
      for (int t = 0; t < across.count; ++t) value += tap_weight(across, t) * mix_column(from + t * column, row, down);
      value = jitter_value(jitter, 0, jitter.contrast_at, 0.0f, value);
      band.canvas[(band.top + y) * batch.size + left + x] = value;
      if (jitter.on()) sum += fixed(value);
    }
  }
  sum = block_sum(sum, partial);
  if (threadIdx.x == 0) pass.sums[band.index * pass.bands + band.number] = sum;
}

__global__ void __launch_bounds__(kBandThreads, 3)
    augment_plane_colour_kernel(const __grid_constant__ PlaneBatch planes, const __grid_constant__ PlanePass pass) {
  const Batch& batch = planes.batch;
  const PlaneBand band = load_plane_band(planes, pass);
  const int first = band.top * batch.size, last = first + band.rows * batch.size;
  if (!band.view.valid) {
    for (int i = first + threadIdx.x; i < last; i += blockDim.x) {
      write_invalid(batch, plane_index(planes, band.view, band.channel, i));
    }
    return;
  }
  int64_t sum = 0;
  for (int i = threadIdx.x; i < pass.bands; i += blockDim.x) sum += pass.sums[band.index * pass.bands + i];
  sum = block_sum(sum, reinterpret_cast<int64_t*>(shared_memory));
  const Jitter jitter = read_jitter(batch.style, band.view.row);
  const float offset = mean_offset(band.view.row[kContrast], sum, batch.pixels());
  const bool blurred = has_blur(batch, band.view);
  for (int i = first + threadIdx.x; i < last; i += blockDim.x) {
    float x = jitter_value(jitter, jitter.contrast_at, 4, offset, band.canvas[i]);
    if (batch.style != kTorchvision) x = clamp01(x);
    if (blurred) {
      band.canvas[i] = x;
    } else {
      store_plane(planes, band.view, band.channel, i, x);
    }
  }
}

__global__ void __launch_bounds__(kBandThreads, 3)
    augment_plane_blur_kernel(const __grid_constant__ PlaneBatch planes, const __grid_constant__ PlanePass pass) {
  const Batch& batch = planes.batch;
  const PlaneBand band = load_plane_band(planes, pass);
  if (!band.view.valid || !has_blur(batch, band.view)) return;
  const int count = blur_radius(batch.size) + 1, size = batch.size;
  float* weight = reinterpret_cast<float*>(shared_memory + count);
  float* middle = weight + count;
  const int reach = blur_weights(batch, band.view, shared_memory, weight);
  for (int i = threadIdx.x; i < band.rows * size; i += blockDim.x) {
    middle[i] = blurred_value(batch, band.canvas + i % size, band.top + i / size, size, weight, reach);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < band.rows * size; i += blockDim.x) {
    const float x = blurred_value(batch, middle + i / size * size, i % size, 1, weight, reach);
    store_plane(planes, band.view, band.channel, band.top * size + i, x);
  }
}

}  // namespace fastclr::cuda
