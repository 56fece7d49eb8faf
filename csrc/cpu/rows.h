// vectorised loops over runs of pixels, each compiled for several instruction sets and selected at load time
#pragma once

#include <cstdint>

#include "../math/pixel.h"
#include "../math/view.h"

namespace fastclr::cpu {

// three planes of one run of pixels
struct Planes {
  float *r, *g, *b;
  Planes at(int64_t i) const { return {r + i, g + i, b + i}; }
};

// taps of one axis: output i sums weight[i * stride + t] * source[start[i] + t] for t < count[i] <= stride;
// the weights from count[i] on are zero
struct Taps {
  const int *start, *count;
  const float* weight;
  int stride;
};

// out[i] = sum_t weight[t] * source[t * pitch + i]
void mix_rows(const uint8_t* source, int64_t pitch, const float* weight, int taps, int64_t n, float* out);
// row: interleaved pixels, with taps.stride more readable pixels after the last
void resample_row(const float* row, const Taps& taps, int64_t n, Planes out);

// the same for one channel, whose pixels are `step` apart
void resample_plane(const float* row, int64_t step, const Taps& taps, int64_t n, float* out);

void brightness_row(Planes p, int64_t n, float factor, float summand);
void contrast_row(Planes p, int64_t n, float factor, Pixel offset);
void saturation_row(Planes p, int64_t n, float factor);
void hsv_saturation_row(Planes p, int64_t n, float factor);
void hue_row(Planes p, int64_t n, float shift6);
void gray_row(Planes p, int64_t n);
void clamp_row(Planes p, int64_t n);
void solarize_row(Planes p, int64_t n);
int64_t luma_sum(Planes p, int64_t n);
int64_t channel_sum(const float* row, int64_t n);

// out[x] = weight[0] * up[0][x] + sum_i weight[i] * (up[i][x] + down[i][x]) for i = 1..reach
void blur_rows(const float* const* up, const float* const* down, const float* weight, int reach, int64_t n, float* out);

// clamped factor * x + offset: brightness, or contrast, of one channel
void blend_row(float* row, int64_t n, float factor, float offset);
void solarize_plane(float* row, int64_t n);
void normalize_row(float* row, int64_t n, float mean, float scale);
void interleave_row(Planes p, int64_t n, float* out);
void bfloat16_row(const float* in, int64_t n, uint16_t* out);
void half_row(const float* in, int64_t n, uint16_t* out);
void byte_row(const float* in, int64_t n, uint8_t* out);
void store_row(const float* in, int64_t n, Element element, char* out);

}  // namespace fastclr::cpu
