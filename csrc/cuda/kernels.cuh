// The kernels. A small view: one block does everything in shared memory. A large view: three kernels over bands of rows
// pass the canvas on in global memory. Thread counts are powers of two.
#pragma once

#include "../math/sampler.h"
#include "stages.cuh"

namespace fastclr::cuda {

constexpr int kDrawThreads = 128, kBandThreads = 256, kSmallThreads = 512;
constexpr int kBandRows = 16;

extern __shared__ __align__(16) double shared_memory[];

struct Draw {
  const int64_t *ids, *sizes;  // [samples], [samples, 2]
  float* out;                  // [views, samples, kParams]
  int64_t samples, rows;       // rows = views * samples
  uint64_t seed;
  uint32_t epoch, first_view;
  int radius;
  SamplerConfig config;
};

// one thread per row; an invalid id or size gives a row of NaN
__global__ void __launch_bounds__(kDrawThreads) augment_params_kernel(const __grid_constant__ Draw draw) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= draw.rows) return;
  const int64_t n = i % draw.samples, id = draw.ids[n];
  const int64_t height = draw.sizes[2 * n], width = draw.sizes[2 * n + 1];
  float* out = draw.out + i * kParams;
  if (id < 0 || !valid_side(height) || !valid_side(width)) {
    for (int field = 0; field < kParams; ++field) out[field] = NAN;
    return;
  }
  const uint32_t view = draw.first_view + static_cast<uint32_t>(i / draw.samples);
  draw_params(draw.config, {draw.seed, draw.epoch, view, static_cast<uint64_t>(id)}, height, width, draw.radius, out);
}

// a block's shared memory: sums or raw blur weights, then space that the stages use one after the other
FASTCLR_HD int64_t scratch_bytes(int size, int threads) {
  const int64_t sums = int64_t{8} * threads, raw = int64_t{8} * (blur_radius(size) + 1);
  return ((sums > raw ? sums : raw) + 15) / 16 * 16;
}

FASTCLR_HD int64_t tap_bytes(int size, int rows) {
  return static_cast<int64_t>(sizeof(Tap)) * (rows + (size < kTapColumns ? size : kTapColumns));
}

FASTCLR_HD int64_t blur_bytes(int size, int rows) {
  const int64_t radius = blur_radius(size);
  return radius > 0 ? 4 * (radius + 1 + rows * (size + 2 * radius)) : 0;
}

// what the resize of `rows` rows needs: mixed columns, then taps
FASTCLR_HD int64_t resize_bytes(int size, int rows) { return int64_t{4} * kMixedFloats + tap_bytes(size, rows); }

// the floats of a canvas, up to where the next 16 bytes begin
FASTCLR_HD int64_t canvas_floats(int size) { return (int64_t{3} * size * size + 3) / 4 * 4; }

// one block per view: canvas, then mixed columns and taps, whose space the blur reuses
__global__ void __launch_bounds__(kSmallThreads, 2) augment_small_kernel(const __grid_constant__ Batch batch) {
  const View view = load_view(batch, blockIdx.x);
  if (!view.valid) {
    store_invalid(batch, view, 0, batch.pixels());
    return;
  }
  const int64_t scratch = scratch_bytes(batch.size, blockDim.x) / static_cast<int64_t>(sizeof(double));
  float* canvas = reinterpret_cast<float*>(shared_memory + scratch);
  float* stage = canvas + canvas_floats(batch.size);

  const Jitter jitter = read_jitter(batch.style, view.row);
  Tap* taps = reinterpret_cast<Tap*>(stage + kMixedFloats);
  Sums sums = resize_rows(batch, view, jitter, 0, batch.size, stage, taps, canvas);
  sums = block_sums(batch.style, sums, reinterpret_cast<int64_t*>(shared_memory));
  const bool blurred = has_blur(batch, view);
  colour_pixels(batch, view, jitter, sums, 0, batch.pixels(), blurred, canvas);
  if (!blurred) return;
  const int reach = blur_weights(batch, view, shared_memory, stage);  // synchronises: the canvas is complete
  blur_rows(batch, view, stage, reach, 0, batch.size, canvas, stage + blur_radius(batch.size) + 1);
}

// a range of views (first..) whose canvases are in global memory, and the sums of their bands
struct Pass {
  int64_t first;
  int bands, band_rows;
  float* canvas;  // [views of the pass, 3, size, size]
  Sums* sums;     // [views of the pass, bands]
};

struct Band {
  View view;
  int64_t index;  // index of the view in the pass
  int number, top, rows;
  float* canvas;
};

__device__ inline Band load_band(const Batch& batch, const Pass& pass) {
  const int64_t index = blockIdx.x / pass.bands;
  const int number = static_cast<int>(blockIdx.x % pass.bands), top = number * pass.band_rows;
  const int rows = batch.size - top < pass.band_rows ? batch.size - top : pass.band_rows;
  return {load_view(batch, pass.first + index), index, number, top, rows, pass.canvas + index * 3 * batch.pixels()};
}

__global__ void __launch_bounds__(kBandThreads, 3)
    augment_resize_kernel(const __grid_constant__ Batch batch, const __grid_constant__ Pass pass) {
  const Band band = load_band(batch, pass);
  if (!band.view.valid) return;
  int64_t* partial = reinterpret_cast<int64_t*>(shared_memory);
  float* mixed = reinterpret_cast<float*>(partial + blockDim.x);
  Tap* taps = reinterpret_cast<Tap*>(mixed + kMixedFloats);
  const Jitter jitter = read_jitter(batch.style, band.view.row);
  Sums sums = resize_rows(batch, band.view, jitter, band.top, band.rows, mixed, taps, band.canvas);
  sums = block_sums(batch.style, sums, partial);
  if (threadIdx.x == 0) pass.sums[band.index * pass.bands + band.number] = sums;
}

__global__ void __launch_bounds__(kBandThreads, 3)
    augment_colour_kernel(const __grid_constant__ Batch batch, const __grid_constant__ Pass pass) {
  const Band band = load_band(batch, pass);
  const int first = band.top * batch.size, last = first + band.rows * batch.size;
  if (!band.view.valid) {
    store_invalid(batch, band.view, first, last);
    return;
  }
  Sums sums = {0, 0, 0};
  for (int i = threadIdx.x; i < pass.bands; i += blockDim.x) {
    const Sums part = pass.sums[band.index * pass.bands + i];
    sums = {sums.r + part.r, sums.g + part.g, sums.b + part.b};
  }
  sums = block_sums(batch.style, sums, reinterpret_cast<int64_t*>(shared_memory));
  const Jitter jitter = read_jitter(batch.style, band.view.row);
  colour_pixels(batch, band.view, jitter, sums, first, last, has_blur(batch, band.view), band.canvas);
}

__global__ void __launch_bounds__(kBandThreads, 4)
    augment_blur_kernel(const __grid_constant__ Batch batch, const __grid_constant__ Pass pass) {
  const Band band = load_band(batch, pass);
  if (!band.view.valid || !has_blur(batch, band.view)) return;
  const int count = blur_radius(batch.size) + 1;
  float* weight = reinterpret_cast<float*>(shared_memory + count);
  const int reach = blur_weights(batch, band.view, shared_memory, weight);
  blur_rows(batch, band.view, weight, reach, band.top, band.rows, band.canvas, weight + count);
}

}  // namespace fastclr::cuda
