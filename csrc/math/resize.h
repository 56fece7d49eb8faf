// Resize along one axis: antialiased bilinear (torch.nn.functional.interpolate, antialias=True, align_corners=False),
// or TensorFlow's bicubic (tf.image.resize: half-pixel centres, Keys' kernel with a = -0.5, no antialiasing).
#pragma once

#include <cmath>

#include "hd.h"
#include "sampler.h"

namespace fastclr {

constexpr int kStoredTaps = 4;

// the source pixels start..start+count-1 that contribute to one output pixel
struct Tap {
  int start, count;
  float value[kStoredTaps];  // the weights if at most kStoredTaps; more are computed from centre, 1 / width and gain
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

FASTCLR_HD double keys_cubic(double x) {
  return x <= 1.0 ? (1.5 * x - 2.5) * x * x + 1.0 : ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0;
}

// pixels outside the crop get no weight, and the others are scaled up to compensate; positions are quantised to 1/1024
// pixel, as in TensorFlow's table
FASTCLR_HD Tap cubic_tap(int in, int out, int i, float gain) {
  const double position = (static_cast<double>(i) + 0.5) * static_cast<double>(in) / static_cast<double>(out) - 0.5;
  const double below = floor(position), delta = rint((position - below) * 1024.0) / 1024.0;
  const int first = static_cast<int>(below) - 1, skipped = first < 0 ? -first : 0;
  const int count = (first + 4 < in ? 4 : in - first) - skipped;
  const double weight[4] = {
      keys_cubic(1.0 + delta), keys_cubic(delta), keys_cubic(1.0 - delta), keys_cubic(2.0 - delta)};
  double total = 0.0;
  for (int t = 0; t < 4; ++t) total += t >= skipped && t < skipped + count ? weight[t] : 0.0;
  Tap tap = {first + skipped, count, {0.0f, 0.0f, 0.0f, 0.0f}};
  // both indices are compile-time constants, so that no array ends up in memory
  for (int to = 0; to < kStoredTaps; ++to) {
    for (int from = to; from < 4; ++from) {
      if (from == to + skipped && to < count) tap.value[to] = static_cast<float>(gain * weight[from] / total);
    }
  }
  return tap;
}

FASTCLR_HD Tap triangle_tap(int in, int out, int i, float gain) {
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

// output pixel i of an axis of `in` pixels resized to `out`; the weights sum to gain
FASTCLR_HD Tap resize_tap(Style style, int in, int out, int i, float gain) {
  return style == kTorchvision ? triangle_tap(in, out, i, gain) : cubic_tap(in, out, i, gain);
}

}  // namespace fastclr
