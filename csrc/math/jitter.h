// The colour jitter of one view, pixel by pixel.
#pragma once

#include "hd.h"
#include "pixel.h"
#include "sampler.h"

namespace fastclr {

struct Jitter {
  int operations;   // two bits per position
  int contrast_at;  // position of the contrast, which needs a mean over the image
  bool on;
  float brightness, contrast, saturation, hue6;
};

FASTCLR_HD Jitter read_jitter(const float* row) {
  const int order = static_cast<int>(row[kOrder]);
  Jitter jitter = {0, 4, order >= 0, row[kBrightness], row[kContrast], row[kSaturation], 6.0f * row[kHue]};
  for (int i = 0; order >= 0 && i < 4; ++i) {
    const int op = colour_op(order, i);
    jitter.operations |= op << 2 * i;
    if (op == kOpContrast) jitter.contrast_at = i;
  }
  return jitter;
}

// applies the operations at positions first..last-1; offset is (1 - contrast) * mean
FASTCLR_HD Pixel apply_jitter(const Jitter& jitter, int first, int last, float offset, Pixel p) {
  if (!jitter.on) return p;
  for (int i = first; i < last; ++i) {
    switch (jitter.operations >> 2 * i & 3) {
      case kOpBrightness:
        p = adjust_brightness(p, jitter.brightness);
        break;
      case kOpContrast:
        p = adjust_contrast(p, jitter.contrast, offset);
        break;
      case kOpSaturation:
        p = adjust_saturation(p, jitter.saturation);
        break;
      default:
        if (jitter.hue6 != 0.0f) p = adjust_hue(p, jitter.hue6);
    }
  }
  return p;
}

}  // namespace fastclr
