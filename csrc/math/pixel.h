// Per-pixel arithmetic of the augmentation, on floats in [0, 1]. It follows torchvision's float functional API or, for
// the styles of SimCLR's own code, TensorFlow's image operations.
// Everything that includes this is compiled without contraction to fma, so that host and device agree.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "hd.h"
#include "sampler.h"

namespace fastclr {

struct Pixel {
  float r, g, b;
};

FASTCLR_HD float clamp01(float x) {
  x = x > 0.0f ? x : 0.0f;
  return x < 1.0f ? x : 1.0f;
}

// ---- colour

FASTCLR_HD float luma(Pixel p) { return 0.2989f * p.r + 0.587f * p.g + 0.114f * p.b; }

FASTCLR_HD float blend(float x, float factor, float offset) { return clamp01(factor * x + offset); }

// brightness as a factor, or as an offset with factor 1
FASTCLR_HD Pixel adjust_brightness(Pixel p, float factor, float summand) {
  return {blend(p.r, factor, summand), blend(p.g, factor, summand), blend(p.b, factor, summand)};
}

// offset = (1 - factor) * mean over the image: of the luma, or of each channel in the TensorFlow styles
FASTCLR_HD Pixel adjust_contrast(Pixel p, float factor, Pixel offset) {
  return {blend(p.r, factor, offset.r), blend(p.g, factor, offset.g), blend(p.b, factor, offset.b)};
}

FASTCLR_HD Pixel adjust_saturation(Pixel p, float factor) {
  const float offset = (1.0f - factor) * luma(p);
  return {blend(p.r, factor, offset), blend(p.g, factor, offset), blend(p.b, factor, offset)};
}

// multiplies the HSV saturation, clamped to 1; hue and maximum stay the same
FASTCLR_HD Pixel scale_saturation(Pixel p, float factor) {
  const float gb_max = p.g > p.b ? p.g : p.b, gb_min = p.g < p.b ? p.g : p.b;
  const float maximum = p.r > gb_max ? p.r : gb_max, minimum = p.r < gb_min ? p.r : gb_min;
  const float chroma = maximum - minimum;
  const float saturation = maximum > 0.0f ? clamp01(chroma / maximum * factor) : 0.0f;
  const float ratio = chroma > 0.0f ? saturation * maximum / chroma : 0.0f;
  return {
      clamp01(maximum - (maximum - p.r) * ratio), clamp01(maximum - (maximum - p.g) * ratio),
      clamp01(maximum - (maximum - p.b) * ratio)};
}

// one channel of an HSV colour: n is 5, 3, 1 for r, g, b; h6 in [0, 6) is the hue in sextants
FASTCLR_HD float hue_channel(float h6, float n, float maximum, float chroma) {
  float k = n + h6;
  k = k >= 6.0f ? k - 6.0f : k;
  const float ramp = k < 4.0f - k ? k : 4.0f - k;
  return clamp01(maximum - chroma * clamp01(ramp));
}

// rotates the hue by shift6 sextants, |shift6| <= 3; neither maximum nor chroma changes
FASTCLR_HD Pixel adjust_hue(Pixel p, float shift6) {
  const float gb_max = p.g > p.b ? p.g : p.b, gb_min = p.g < p.b ? p.g : p.b;
  const float maximum = p.r > gb_max ? p.r : gb_max, minimum = p.r < gb_min ? p.r : gb_min;
  const float chroma = maximum - minimum;
  const float divisor = chroma > 0.0f ? chroma : 1.0f;
  const bool r_max = maximum == p.r, g_max = maximum == p.g;
  const float difference = r_max ? p.g - p.b : g_max ? p.b - p.r : p.r - p.g;
  const float sextant = r_max ? 0.0f : g_max ? 2.0f : 4.0f;
  float h6 = sextant + difference / divisor + shift6;
  h6 = h6 < 0.0f ? h6 + 6.0f : h6;
  h6 = h6 >= 6.0f ? h6 - 6.0f : h6;
  return {
      hue_channel(h6, 5.0f, maximum, chroma), hue_channel(h6, 3.0f, maximum, chroma),
      hue_channel(h6, 1.0f, maximum, chroma)};
}

FASTCLR_HD float solarize(float x) { return x >= 0.5f ? 1.0f - x : x; }

FASTCLR_HD Pixel clamp_pixel(Pixel p) { return {clamp01(p.r), clamp01(p.g), clamp01(p.b)}; }

// ---- means in fixed point, so that a sum does not depend on its order. |x| < 2: a bicubic resize overshoots [0, 1] by
// at most 0.57

struct Sums {
  int64_t r, g, b;
};

FASTCLR_HD int32_t fixed(float x) { return static_cast<int32_t>(x * 1073741824.0f); }

// a pixel's contribution to the sums: its luma (the same for all channels), or its channels in the TensorFlow styles
FASTCLR_HD Sums add_pixel(Style style, Sums sums, Pixel p) {
  if (style == kTorchvision) return {sums.r + fixed(luma(p)), 0, 0};
  return {sums.r + fixed(p.r), sums.g + fixed(p.g), sums.b + fixed(p.b)};
}

FASTCLR_HD float mean_offset(float factor, int64_t sum, int64_t pixels) {
  const double mean = static_cast<double>(sum) / (1073741824.0 * static_cast<double>(pixels));
  return (1.0f - factor) * static_cast<float>(mean);
}

// the offset of adjust_contrast
FASTCLR_HD Pixel contrast_offset(Style style, float factor, Sums sums, int64_t pixels) {
  const float first = mean_offset(factor, sums.r, pixels);
  if (style == kTorchvision) return {first, first, first};
  return {first, mean_offset(factor, sums.g, pixels), mean_offset(factor, sums.b, pixels)};
}

// ---- order of the colour operations

enum ColourOp { kOpBrightness, kOpContrast, kOpSaturation, kOpHue };

// the operation at a position of the order-th permutation (in lexicographic order) of the four operations
FASTCLR_HD int colour_op(int order, int position) {
  int left = kOpBrightness | kOpContrast << 2 | kOpSaturation << 4 | kOpHue << 6;  // two bits each
  for (int i = 0;; ++i) {
    const int radix = i == 0 ? 6 : i == 1 ? 2 : 1, index = order / radix, before = (1 << 2 * index) - 1;
    const int op = left >> 2 * index & 3;
    if (i == position) return op;
    order -= index * radix;
    left = (left & before) | (left >> 2 & ~before);
  }
}

// ---- 16-bit floats, rounded to nearest even; in integers, so that every compiler vectorises it. Inputs are never NaN.

FASTCLR_HD uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

FASTCLR_HD uint16_t bfloat16_bits(float x) {
  const uint32_t bits = float_bits(x);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

FASTCLR_HD uint16_t half_bits(float x) {
  const uint32_t sign = float_bits(x) >> 16 & 0x8000u;
  const float magnitude = x < 0.0f ? -x : x;
  const uint32_t bits = float_bits(magnitude) & 0x7FFFFFFFu;
  const uint32_t normal = (bits - 0x38000000u + 0xFFFu + (bits >> 13 & 1u)) >> 13;
  // below 2^-14, adding 1/2 rounds to multiples of 2^-24, the spacing of subnormal halves
  const uint32_t subnormal = float_bits(magnitude + 0.5f) - 0x3F000000u;
  const uint32_t rounded = bits >= 0x47800000u ? 0x7C00u : bits < 0x38800000u ? subnormal : normal;
  return static_cast<uint16_t>(rounded | sign);
}

// ---- bytes

FASTCLR_HD uint8_t byte_value(float x) { return static_cast<uint8_t>(clamp01(x) * 255.0f + 0.5f); }

// ---- gaussian blur

// half width of the window for a kernel of size // 10 (SimCLR's choice); 0 means no blur
FASTCLR_HD int blur_radius(int size) { return size / 10 / 2; }

// taps beyond 5.3 sigma hold less than 1.2e-7 of the mass: invisible in float
FASTCLR_HD int blur_reach(float sigma, int radius) {
  const float reach = ceilf(5.3f * sigma);
  return reach < static_cast<float>(radius) ? static_cast<int>(reach) : radius;
}

// not yet normalised over -reach..reach
FASTCLR_HD double blur_weight(float sigma, int distance) {
  const double x = static_cast<double>(distance) / static_cast<double>(sigma);
  return exp_exact(-0.5 * (x * x));
}

// mirror without repeating the edge; |overhang| < n
FASTCLR_HD int reflect(int i, int n) {
  i = i < 0 ? -i : i;
  return i < n ? i : 2 * n - 2 - i;
}

}  // namespace fastclr
