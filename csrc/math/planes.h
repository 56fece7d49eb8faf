// Views of any number of channels: each channel is an image of its own, to which brightness and contrast apply as to a
// grey image. Saturation, hue and the conversion to grey need three colours, and are skipped.
#pragma once

#include "jitter.h"
#include "pixel.h"

namespace fastclr {

constexpr int64_t kMaxChannels = 16;

// the normalisation of each channel
struct PlaneNormalize {
  float mean[kMaxChannels] = {};
  float scale[kMaxChannels] = {};  // 1 / std
};

// applies the operations at positions first..last-1 to one value; offset is that of the contrast for its channel
FASTCLR_HD float jitter_value(const Jitter& jitter, int first, int last, float offset, float x) {
  if (!jitter.on()) return x;
  for (int i = first; i < last; ++i) {
    if (jitter.operation(i) == kOpBrightness) x = blend(x, jitter.brightness(), jitter.summand());
    if (jitter.operation(i) == kOpContrast) x = blend(x, jitter.row[kContrast], offset);
  }
  return x;
}

}  // namespace fastclr
