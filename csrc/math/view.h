// One view: the location of its image, the valid packed parameters, and how its pixels are written.
#pragma once

#include <cmath>
#include <cstdint>

#include "hd.h"
#include "sampler.h"

namespace fastclr {

// one source image: interleaved [height, width, channels] or planar [channels, height, width] bytes
struct Source {
  const uint8_t* bytes;
  int64_t height, width;
};

struct Normalize {
  float mean[3] = {0.0f, 0.0f, 0.0f};
  float scale[3] = {1.0f, 1.0f, 1.0f};  // 1 / std
};

enum Element { kFloat32, kBFloat16, kFloat16, kUint8 };

FASTCLR_HD int64_t element_size(Element element) { return element == kFloat32 ? 4 : element == kUint8 ? 1 : 2; }

FASTCLR_HD bool valid_side(int64_t side) { return side >= 1 && side <= kMaxSide; }

// both sides are at most 2^24, so channels * height * width fits
FASTCLR_HD bool valid_place(int64_t offset, int64_t height, int64_t width, int64_t bytes, int64_t channels = 3) {
  return offset >= 0 && offset <= bytes && channels * height * width <= bytes - offset;
}

// the checks of packed rows are written so that NaN fails them
FASTCLR_HD bool valid_box(const float* row, int64_t height, int64_t width) {
  const double top = row[kTop], left = row[kLeft], box_h = row[kHeight], box_w = row[kWidth];
  return top >= 0 && left >= 0 && box_h >= 1 && box_w >= 1 && top + box_h <= static_cast<double>(height) &&
         left + box_w <= static_cast<double>(width) && top == rint(top) && left == rint(left) && box_h == rint(box_h) &&
         box_w == rint(box_w);
}

FASTCLR_HD bool valid_order(const float* row) {
  return row[kOrder] >= -1.0f && row[kOrder] <= 23.0f && row[kOrder] == rintf(row[kOrder]);
}

FASTCLR_HD bool valid_hue(const float* row) { return row[kHue] >= -0.5f && row[kHue] <= 0.5f; }

// brightness, contrast, saturation and sigma; a brightness offset may be negative
FASTCLR_HD bool valid_factor(Style style, const float* row, int field) {
  const float lowest = style == kSimclrTfAdditive && field == kBrightness ? -1e6f : 0.0f;
  return row[field] >= lowest && row[field] <= 1e6f;
}

FASTCLR_HD Box read_box(const float* row) {
  return {
      static_cast<int64_t>(row[kTop]), static_cast<int64_t>(row[kLeft]), static_cast<int64_t>(row[kHeight]),
      static_cast<int64_t>(row[kWidth])};
}

}  // namespace fastclr
