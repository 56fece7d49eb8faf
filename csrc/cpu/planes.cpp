#include "planes.h"

#include "../math/pixel.h"

namespace fastclr::cpu {

namespace {

// crops, resizes and flips each channel into a plane of the canvas
void resize_planes(
    const Source& source, int64_t channels, bool planar, const Box& box, int64_t size, Workspace& work, float* canvas) {
  const Taps down = work.y.taps(), across = work.x.taps();
  float* row = reserve(work.source_row, channels * box.width);
  const int64_t step = planar ? 1 : channels, next = planar ? box.width : 1;
  for (int64_t y = 0; y < size; ++y) {
    const float* weight = down.weight + y * down.stride;
    const int64_t top = box.top + down.start[y];
    if (planar) {
      for (int64_t c = 0; c < channels; ++c) {
        const uint8_t* first = source.bytes + (c * source.height + top) * source.width + box.left;
        mix_rows(first, source.width, weight, down.count[y], box.width, row + c * box.width);
      }
    } else {
      const uint8_t* first = source.bytes + (top * source.width + box.left) * channels;
      mix_rows(first, source.width * channels, weight, down.count[y], box.width * channels, row);
    }
    for (int64_t c = 0; c < channels; ++c) {
      resample_plane(row + c * next, step, across, size, canvas + (c * size + y) * size);
    }
  }
}

// jitter_value for a whole plane
void jitter_plane(const Jitter& jitter, float* plane, int64_t n, int first, int last, float offset) {
  for (int i = first; i < last; ++i) {
    if (jitter.operation(i) == kOpBrightness) blend_row(plane, n, jitter.brightness(), jitter.summand());
    if (jitter.operation(i) == kOpContrast) blend_row(plane, n, jitter.row[kContrast], offset);
  }
}

void colour_plane(const Jitter& jitter, Style style, const float* row, float* plane, int64_t pixels) {
  if (jitter.on()) {
    jitter_plane(jitter, plane, pixels, 0, jitter.contrast_at, 0.0f);
    const float offset = mean_offset(row[kContrast], channel_sum(plane, pixels), pixels);
    jitter_plane(jitter, plane, pixels, jitter.contrast_at, 4, offset);
  }
  if (style != kTorchvision) blend_row(plane, pixels, 1.0f, 0.0f);  // clamps
}

}  // namespace

void render_planes(
    const Source& source, bool planar, Style style, const float* row, int64_t size, const PlaneOutput& output,
    Workspace& work, void* out) {
  const Box box = read_box(row);
  const int64_t channels = output.channels, pixels = size * size, width = element_size(output.element);
  work.y.build(style, box.height, size, false, 1.0f);
  work.x.build(style, box.width, size, row[kFlip] != 0.0f, 1.0f / 255.0f);
  // the blur writes each plane over the one before it
  float* canvas = reserve(work.image, (channels + 1) * pixels) + pixels;
  resize_planes(source, channels, planar, box, size, work, canvas);

  const int side = static_cast<int>(size);
  const Jitter jitter = read_jitter(style, row);
  const bool blurred = row[kSigma] > 0.0f && blur_radius(side) > 0;
  const bool mixed = output.interleaved && channels > 1;
  float* first = blurred ? canvas - pixels : canvas;
  char* bytes = static_cast<char*>(out);
  for (int64_t c = 0; c < channels; ++c) {
    colour_plane(jitter, style, row, canvas + c * pixels, pixels);
    float* plane = first + c * pixels;
    if (blurred) {
      const Blur blur(style, row[kSigma], side, work);
      for (int y = 0; y < side; ++y) blur.row(canvas + c * pixels, y, plane + y * size);
    }
    if (row[kSolarize] != 0.0f) solarize_plane(plane, pixels);
    const float mean = output.normalize.mean[c], scale = output.normalize.scale[c];
    if (mean != 0.0f || scale != 1.0f) normalize_row(plane, pixels, mean, scale);
    if (!mixed) store_row(plane, pixels, output.element, bytes + c * pixels * width);
  }
  float* staged = mixed ? reserve(work.staged, channels * size) : nullptr;
  for (int64_t i = 0; mixed && i < pixels; i += size) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t x = 0; x < size; ++x) staged[x * channels + c] = first[c * pixels + i + x];
    }
    store_row(staged, channels * size, output.element, bytes + channels * i * width);
  }
}

}  // namespace fastclr::cpu
