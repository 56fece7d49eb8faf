#include "view.h"

#include <algorithm>

#include "../math/jitter.h"
#include "../math/pixel.h"
#include "../math/resize.h"

namespace fastclr::cpu {

namespace {

// colour operations run on a few thousand pixels at a time, so that these stay in the L1 cache
constexpr int64_t kChunk = 2048;

struct Canvas {
  Planes planes;
  int64_t size;
  int64_t pixels() const { return size * size; }
};

// the vertical pass of output row y: one interleaved row of the crop, on the scale of bytes
void source_row(
    const Source& source, bool planar, const Box& box, int64_t y, const Workspace& work, float* planes, float* out) {
  const Taps taps = work.y.taps();
  const int count = taps.count[y];
  const float* weight = taps.weight + y * taps.stride;
  const int64_t top = box.top + taps.start[y];
  if (!planar) {
    const uint8_t* first = source.bytes + (top * source.width + box.left) * 3;
    mix_rows(first, source.width * 3, weight, count, box.width * 3, out);
    return;
  }
  for (int64_t c = 0; c < 3; ++c) {
    const uint8_t* first = source.bytes + (c * source.height + top) * source.width + box.left;
    mix_rows(first, source.width, weight, count, box.width, planes + c * box.width);
  }
  interleave_row({planes, planes + box.width, planes + 2 * box.width}, box.width, out);
}

// applies operations first..last-1 of a view's jitter to n pixels
void jitter_rows(const Jitter& jitter, Planes p, int64_t n, int first, int last, Pixel contrast_offset) {
  if (!jitter.on()) return;
  for (int i = first; i < last; ++i) {
    switch (jitter.operation(i)) {
      case kOpBrightness:
        brightness_row(p, n, jitter.brightness(), jitter.summand());
        break;
      case kOpContrast:
        contrast_row(p, n, jitter.row[kContrast], contrast_offset);
        break;
      case kOpSaturation:
        (jitter.style == kTorchvision ? saturation_row : hsv_saturation_row)(p, n, jitter.row[kSaturation]);
        break;
      default:
        if (jitter.row[kHue] != 0.0f) hue_row(p, n, jitter.hue6());
    }
  }
}

Sums add_rows(Style style, Sums sums, Planes p, int64_t n) {
  if (style == kTorchvision) return {sums.r + luma_sum(p, n), 0, 0};
  return {sums.r + channel_sum(p.r, n), sums.g + channel_sum(p.g, n), sums.b + channel_sum(p.b, n)};
}

// resizes into the canvas and applies the operations before the contrast; returns the sums for the contrast
Sums resize(const Source& source, bool planar, const Box& box, const Jitter& jitter, Canvas canvas, Workspace& work) {
  const Taps across = work.x.taps();
  // the taps with zero weight reach beyond the last pixel
  const int64_t padding = 3 * across.stride + 1;
  float* row = reserve(work.source_row, 3 * box.width + padding);
  std::fill_n(row + 3 * box.width, padding, 0.0f);
  float* planes = planar ? reserve(work.source_rows, 3 * box.width) : nullptr;
  Sums sums = {0, 0, 0};
  int64_t done = 0;
  for (int64_t y = 0; y < canvas.size; ++y) {
    source_row(source, planar, box, y, work, planes, row);
    resample_row(row, across, canvas.size, canvas.planes.at(y * canvas.size));
    const int64_t ready = (y + 1) * canvas.size;
    if (!jitter.on() || (ready - done < kChunk && ready < canvas.pixels())) continue;
    const Planes chunk = canvas.planes.at(done);
    jitter_rows(jitter, chunk, ready - done, 0, jitter.contrast_at, {0.0f, 0.0f, 0.0f});
    sums = add_rows(jitter.style, sums, chunk, ready - done);
    done = ready;
  }
  return sums;
}

// solarises and normalises n pixels in place, and writes them from pixel `position` on
void finish(
    Planes p, int64_t n, int64_t position, int64_t pixels, const float* row, const Output& output, Workspace& work,
    void* out) {
  if (row[kSolarize] != 0.0f) solarize_row(p, n);
  const Normalize& normalize = output.normalize;
  float* planes[3] = {p.r, p.g, p.b};
  for (int c = 0; c < 3; ++c) {
    if (normalize.mean[c] != 0.0f || normalize.scale[c] != 1.0f) {
      normalize_row(planes[c], n, normalize.mean[c], normalize.scale[c]);
    }
  }
  char* bytes = static_cast<char*>(out);
  const int64_t width = element_size(output.element);
  if (!output.interleaved) {
    for (int64_t c = 0; c < 3; ++c) store_row(planes[c], n, output.element, bytes + (c * pixels + position) * width);
  } else if (output.element == kFloat32) {
    interleave_row(p, n, reinterpret_cast<float*>(bytes) + 3 * position);
  } else {
    float* staged = reserve(work.staged, 3 * n);
    interleave_row(p, n, staged);
    store_row(staged, 3 * n, output.element, bytes + 3 * position * width);
  }
}

// blurs the canvas row by row, and finishes each row at once
void blur_and_finish(Canvas canvas, Style style, const float* row, const Output& output, Workspace& work, void* out) {
  const int n = static_cast<int>(canvas.size);
  const Blur blur(style, row[kSigma], n, work);
  float* done = reserve(work.done, 3 * n);
  const float* planes[3] = {canvas.planes.r, canvas.planes.g, canvas.planes.b};
  for (int y = 0; y < n; ++y) {
    for (int c = 0; c < 3; ++c) blur.row(planes[c], y, done + c * n);
    finish({done, done + n, done + 2 * n}, n, static_cast<int64_t>(y) * n, canvas.pixels(), row, output, work, out);
  }
}

}  // namespace

void Workspace::Axis::build(Style style, int64_t in, int64_t size, bool mirrored, float gain) {
  const int n = static_cast<int>(size);
  const Tap* tap = reserve(taps_of, n);
  stride = 1;
  for (int i = 0; i < n; ++i) {
    taps_of[static_cast<size_t>(i)] = resize_tap(style, static_cast<int>(in), n, i, gain);
    stride = std::max(stride, tap[i].count);
  }
  reserve(start, n);
  reserve(count, n);
  reserve(weight, static_cast<int64_t>(n) * stride);
  for (int i = 0; i < n; ++i) {
    const int slot = mirrored ? n - 1 - i : i;
    float* w = weight.data() + static_cast<int64_t>(slot) * stride;
    start[slot] = tap[i].start;
    count[slot] = tap[i].count;
    for (int t = 0; t < tap[i].count; ++t) w[t] = tap_weight(tap[i], t);
    std::fill(w + tap[i].count, w + stride, 0.0f);
  }
}

Blur::Blur(Style style, float sigma, int size, Workspace& work)
    : n_(size), reach_(blur_reach(sigma, blur_radius(size))), mirrored_(style == kTorchvision) {
  weight_ = reserve(work.weight, reach_ + 1);
  double total = 0.0;
  for (int d = reach_; d >= 0; --d) total += blur_weight(sigma, d) * (d > 0 ? 2.0 : 1.0);
  for (int d = 0; d <= reach_; ++d) weight_[d] = static_cast<float>(blur_weight(sigma, d) / total);
  up_ = reserve(work.up, 2 * (reach_ + 1));
  down_ = reserve(work.down, 2 * (reach_ + 1));
  middle_ = reserve(work.blurred, n_ + 2 * reach_) + reach_;
  zeros_ = reserve(work.zeros, n_);
  for (int d = 0; d <= reach_; ++d) {
    up_[reach_ + 1 + d] = middle_ - d;
    down_[reach_ + 1 + d] = middle_ + d;
  }
}

void Blur::row(const float* plane, int y, float* out) const {
  const auto row_of = [&](int i) {
    if (!mirrored_ && (i < 0 || i >= n_)) return zeros_;
    return plane + static_cast<int64_t>(reflect(i, n_)) * n_;
  };
  for (int d = 0; d <= reach_; ++d) {
    up_[d] = row_of(y - d);
    down_[d] = row_of(y + d);
  }
  blur_rows(up_, down_, weight_, reach_, n_, middle_);
  for (int d = 1; d <= reach_; ++d) {
    middle_[-d] = mirrored_ ? middle_[reflect(-d, n_)] : 0.0f;
    middle_[n_ - 1 + d] = mirrored_ ? middle_[reflect(n_ - 1 + d, n_)] : 0.0f;
  }
  blur_rows(up_ + reach_ + 1, down_ + reach_ + 1, weight_, reach_, n_, out);
}

void render_view(
    const Source& source, bool planar, Style style, const float* row, int64_t size, const Output& output,
    Workspace& work, void* out) {
  const Box box = read_box(row);
  work.y.build(style, box.height, size, false, 1.0f);
  work.x.build(style, box.width, size, row[kFlip] != 0.0f, 1.0f / 255.0f);  // also scales bytes to [0, 1]

  float* image = reserve(work.image, 3 * size * size);
  const Canvas canvas = {{image, image + size * size, image + 2 * size * size}, size};
  const Jitter jitter = read_jitter(style, row);
  const Sums sums = resize(source, planar, box, jitter, canvas, work);
  const Pixel offset = contrast_offset(style, row[kContrast], sums, canvas.pixels());

  const bool gray = row[kGray] != 0.0f;
  const bool blur = row[kSigma] > 0.0f && blur_radius(static_cast<int>(size)) > 0;
  for (int64_t i = 0; i < canvas.pixels(); i += kChunk) {
    const int64_t n = std::min(kChunk, canvas.pixels() - i);
    const Planes chunk = canvas.planes.at(i);
    jitter_rows(jitter, chunk, n, jitter.contrast_at, 4, offset);
    if (gray) gray_row(chunk, n);
    if (style != kTorchvision) clamp_row(chunk, n);
    if (!blur) finish(chunk, n, i, canvas.pixels(), row, output, work, out);
  }
  if (blur) blur_and_finish(canvas, style, row, output, work, out);
}

}  // namespace fastclr::cpu
