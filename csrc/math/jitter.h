// The colour jitter of one view, pixel by pixel.
#pragma once

#include "hd.h"
#include "pixel.h"
#include "sampler.h"

namespace fastclr {

// the factors stay in the packed row, because registers are scarce on a GPU
struct Jitter {
  const float* row;
  Style style;
  int operations;   // two bits per position
  int contrast_at;  // position of the contrast, which needs a mean over the image; 4 without jitter

  FASTCLR_HD bool on() const { return contrast_at < 4; }
  FASTCLR_HD int operation(int position) const { return operations >> 2 * position & 3; }
  FASTCLR_HD float brightness() const { return style == kSimclrTfAdditive ? 1.0f : row[kBrightness]; }
  FASTCLR_HD float summand() const { return style == kSimclrTfAdditive ? row[kBrightness] : 0.0f; }
  FASTCLR_HD float hue6() const { return 6.0f * row[kHue]; }
};

FASTCLR_HD Jitter read_jitter(Style style, const float* row) {
  Jitter jitter = {row, style, 0, 4};
  const int order = static_cast<int>(row[kOrder]);
  for (int i = 0; order >= 0 && i < 4; ++i) {
    const int op = colour_op(order, i);
    jitter.operations |= op << 2 * i;
    if (op == kOpContrast) jitter.contrast_at = i;
  }
  return jitter;
}

// applies the operations at positions first..last-1
FASTCLR_HD Pixel apply_jitter(const Jitter& jitter, int first, int last, Pixel offset, Pixel p) {
  if (!jitter.on()) return p;
  for (int i = first; i < last; ++i) {
    switch (jitter.operation(i)) {
      case kOpBrightness:
        p = adjust_brightness(p, jitter.brightness(), jitter.summand());
        break;
      case kOpContrast:
        p = adjust_contrast(p, jitter.row[kContrast], offset);
        break;
      case kOpSaturation:
        p = jitter.style == kTorchvision ? adjust_saturation(p, jitter.row[kSaturation])
                                         : scale_saturation(p, jitter.row[kSaturation]);
        break;
      default:
        if (jitter.row[kHue] != 0.0f) p = adjust_hue(p, jitter.hue6());
    }
  }
  return p;
}

}  // namespace fastclr
