// What the kernels read and write. The host cannot check values in device memory without synchronising, so each block
// checks those of its own view, and fills the view with NaN (bytes: 0) if the image's location or size or its
// parameters are invalid.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../math/pixel.h"
#include "../math/view.h"

namespace fastclr::cuda {

// arguments of one call; all pointers are on the device
struct Batch {
  const uint8_t* data;
  int64_t bytes;
  const int64_t* offsets;  // [samples]
  const int64_t* sizes;    // [samples, 2]
  const float* params;     // [views, samples, kParams]
  int64_t views, samples;
  int size;
  Style style;
  bool planar;
  void* out;  // [views, samples, 3, size, size], or [views, samples, size, size, 3] if interleaved
  Element element;
  bool interleaved;
  Normalize normalize;

  FASTCLR_HD int pixels() const { return size * size; }
};

struct View {
  int64_t slot;  // view * samples + sample
  Source source;
  const float* row;
  bool valid;
};

// an image's views are neighbours in the grid, so that they share its bytes in the cache
__device__ inline View load_view(const Batch& batch, int64_t index, int64_t channels = 3) {
  const int64_t sample = index / batch.views, slot = index % batch.views * batch.samples + sample;
  const int64_t offset = batch.offsets[sample];
  const int64_t height = batch.sizes[2 * sample], width = batch.sizes[2 * sample + 1];
  const float* row = batch.params + slot * kParams;
  bool valid = valid_side(height) && valid_side(width) && valid_place(offset, height, width, batch.bytes, channels);
  valid = valid && valid_box(row, height, width) && valid_order(row) && valid_hue(row);
  for (const int field : {kBrightness, kContrast, kSaturation, kSigma})
    valid = valid && valid_factor(batch.style, row, field);
  return {slot, {batch.data + (valid ? offset : 0), height, width}, row, valid};
}

__device__ inline int64_t element_index(const Batch& batch, int64_t slot, int channel, int pixel) {
  const int64_t inside = batch.interleaved ? 3 * int64_t{pixel} + channel : int64_t{channel} * batch.pixels() + pixel;
  return slot * 3 * batch.pixels() + inside;
}

// converts and writes one value
__device__ inline void write_element(const Batch& batch, int64_t index, float x) {
  if (batch.element == kFloat32) {
    static_cast<float*>(batch.out)[index] = x;
  } else if (batch.element == kUint8) {
    static_cast<uint8_t*>(batch.out)[index] = byte_value(x);
  } else {
    static_cast<uint16_t*>(batch.out)[index] = batch.element == kBFloat16 ? bfloat16_bits(x) : half_bits(x);
  }
}

// writes NaN (bytes: 0)
__device__ inline void write_invalid(const Batch& batch, int64_t index) {
  if (batch.element == kFloat32) {
    static_cast<float*>(batch.out)[index] = NAN;
  } else if (batch.element == kUint8) {
    static_cast<uint8_t*>(batch.out)[index] = 0;
  } else {
    static_cast<uint16_t*>(batch.out)[index] = batch.element == kBFloat16 ? 0x7FC0 : 0x7E00;
  }
}

// solarises, normalises and writes one value
__device__ inline void store(const Batch& batch, const View& view, int channel, int pixel, float x) {
  if (view.row[kSolarize] != 0.0f) x = solarize(x);
  const float mean = batch.normalize.mean[channel], scale = batch.normalize.scale[channel];
  if (mean != 0.0f || scale != 1.0f) x = (x - mean) * scale;
  write_element(batch, element_index(batch, view.slot, channel, pixel), x);
}

// fills pixels first..last-1 of a view that cannot be computed
__device__ inline void store_invalid(const Batch& batch, const View& view, int first, int last) {
  for (int i = 3 * first + threadIdx.x; i < 3 * last; i += blockDim.x) {
    write_invalid(batch, element_index(batch, view.slot, i % 3, i / 3));
  }
}

}  // namespace fastclr::cuda
