// Antialiased bilinear resize along one axis (torch.nn.functional.interpolate, antialias=True, align_corners=False).
#pragma once

#include "hd.h"

namespace fastclr {

constexpr int kStoredTaps = 4;

// the source pixels start..start+count-1 that weigh in one output pixel
struct Tap {
  int start, count;
  float value[kStoredTaps];  // up to kStoredTaps weights; more are computed from centre, 1 / width and gain
};

FASTCLR_HD float triangle(float centre, float inverse, int source) {
  const float x = (static_cast<float>(source) - centre + 0.5f) * inverse;
  const float weight = 1.0f - (x < 0.0f ? -x : x);
  return weight > 0.0f ? weight : 0.0f;
}

FASTCLR_HD float tap_weight(const Tap& tap, int t) {
  if (tap.count <= kStoredTaps) return tap.value[t];
  return triangle(tap.value[0], tap.value[1], tap.start + t) * tap.value[2];
}

// output pixel i of an axis of `in` pixels resized to `out`; the weights sum to gain
FASTCLR_HD Tap resize_tap(int in, int out, int i, float gain) {
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  const float support = scale >= 1.0f ? scale : 1.0f;
  const float inverse = scale >= 1.0f ? 1.0f / scale : 1.0f;
  const float centre = scale * (static_cast<float>(i) + 0.5f);
  const int lo = static_cast<int>(centre - support + 0.5f), hi = static_cast<int>(centre + support + 0.5f);
  Tap tap;
  tap.start = lo > 0 ? lo : 0;
  tap.count = (hi < in ? hi : in) - tap.start;
  float total = 0.0f;
  for (int t = 0; t < tap.count; ++t) total += triangle(centre, inverse, tap.start + t);
  const float unit = gain / total;
  if (tap.count > kStoredTaps) {
    tap.value[0] = centre;
    tap.value[1] = inverse;
    tap.value[2] = unit;
    return tap;
  }
  for (int t = 0; t < kStoredTaps; ++t) {
    tap.value[t] = t < tap.count ? triangle(centre, inverse, tap.start + t) * unit : 0.0f;
  }
  return tap;
}

}  // namespace fastclr
