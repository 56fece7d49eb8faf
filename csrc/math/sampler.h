// The parameters of one augmented view, a function of (seed, epoch, sample id, view) alone.
//
// Everything is IEEE double with + - * / sqrt rint, compiled without contraction to fma, so that this code gives the
// same bits on every host, on a GPU and in fastclr/augment/reference.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "hd.h"
#include "philox.h"

namespace fastclr {

enum Param {
  kTop,
  kLeft,
  kHeight,
  kWidth,
  kFlip,
  kBrightness,
  kContrast,
  kSaturation,
  kHue,
  kOrder,
  kGray,
  kSigma,
  kSolarize,
  kParams = 16,  // packed row length; 13..15 are zero
};

// torchvision's functions, or those of SimCLR's TensorFlow code with brightness as a factor (v2) or an offset (v1)
enum Style { kTorchvision, kSimclrTf, kSimclrTfAdditive, kStyles };

constexpr int kCropAttempts = 10;
constexpr int kTfCropAttempts = 100;
constexpr uint64_t kNoId = ~uint64_t{0};        // the id of draws that all samples share; ids are below 2^63
constexpr int64_t kMaxSide = int64_t{1} << 24;  // box coordinates are stored as float

struct SamplerConfig {
  double crop_scale_lo, crop_scale_hi;
  double crop_ratio_lo, crop_ratio_hi;
  double log_ratio_lo, log_ratio_hi;  // computed once by the caller: the log of different C libraries differs
  double flip_p;
  double brightness, contrast, saturation, hue;
  double jitter_p, gray_p;
  double blur_p, blur_sigma_lo, blur_sigma_hi;
  double solarize_p;
  double min_object_covered;  // TensorFlow sampler only: smallest fraction of the image in a crop
  int64_t style;
  bool blur_sigma_per_batch;
};

struct SampleKey {
  uint64_t seed;
  uint32_t epoch;
  uint32_t view;
  uint64_t id;
};

struct Box {
  int64_t top, left, height, width;
};

// exp(x) for x <= 700 from correctly rounded operations: 2^k times a Taylor polynomial on |r| <= ln(2) / 2
FASTCLR_HD double exp_exact(double x) {
  if (!(x > -700.0)) return 0.0;
  const double k = rint(x * 1.4426950408889634);
  const double r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
  double p = 1.0;
  for (int n = 13; n >= 1; --n) p = 1.0 + p * r / static_cast<double>(n);
  const uint64_t bits = static_cast<uint64_t>(static_cast<int64_t>(k) + 1023) << 52;
  double power;
  memcpy(&power, &bits, sizeof(power));
  return p * power;
}

FASTCLR_HD Random4 draw(const SampleKey& key, uint32_t block) {
  const Random4 counter = {
      {block | key.view << 16, key.epoch, static_cast<uint32_t>(key.id), static_cast<uint32_t>(key.id >> 32)}};
  return philox(counter, static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32));
}

FASTCLR_HD double between(uint32_t x, double lo, double hi) { return lo + uniform(x) * (hi - lo); }

// torchvision's RandomResizedCrop.get_params: ten tries, then the largest centred box within the ratio bounds
FASTCLR_HD Box draw_box(const SamplerConfig& config, const SampleKey& key, int64_t height, int64_t width) {
  const double h = static_cast<double>(height), w = static_cast<double>(width);
  for (uint32_t attempt = 0; attempt < kCropAttempts; ++attempt) {
    const Random4 random = draw(key, attempt);
    const double area = h * w * between(random.x[0], config.crop_scale_lo, config.crop_scale_hi);
    const double ratio = exp_exact(between(random.x[1], config.log_ratio_lo, config.log_ratio_hi));
    const double box_w = rint(sqrt(area * ratio));
    const double box_h = rint(sqrt(area / ratio));
    if (box_w > 0.0 && box_w <= w && box_h > 0.0 && box_h <= h) {
      const int64_t bh = static_cast<int64_t>(box_h), bw = static_cast<int64_t>(box_w);
      return {
          pick(random.x[2], static_cast<uint32_t>(height - bh + 1)),
          pick(random.x[3], static_cast<uint32_t>(width - bw + 1)), bh, bw};
    }
  }
  double box_h = h, box_w = w;
  if (w / h < config.crop_ratio_lo) {
    box_h = rint(w / config.crop_ratio_lo);
  } else if (w / h > config.crop_ratio_hi) {
    box_w = rint(h * config.crop_ratio_hi);
  }
  // extreme ratio bounds can round to 0; the smallest box is one pixel
  const int64_t bh = box_h < 1.0 ? 1 : static_cast<int64_t>(box_h);
  const int64_t bw = box_w < 1.0 ? 1 : static_cast<int64_t>(box_w);
  return {(height - bh) / 2, (width - bw) / 2, bh, bw};
}

// TensorFlow's sample_distorted_bounding_box with the whole image as the only object: the ratio is uniform, the height
// a uniform integer, the largest offset is never drawn; a hundred tries, then the whole image
FASTCLR_HD Box draw_box_tf(const SamplerConfig& config, const SampleKey& key, int64_t height, int64_t width) {
  const double h = static_cast<double>(height), w = static_cast<double>(width);
  const double min_area = config.crop_scale_lo * h * w, max_area = config.crop_scale_hi * h * w;
  for (uint32_t attempt = 0; attempt < kTfCropAttempts; ++attempt) {
    const Random4 random = draw(key, 256 + attempt);
    const double ratio = between(random.x[0], config.crop_ratio_lo, config.crop_ratio_hi);
    double highest = rint(sqrt(max_area / ratio));
    if (rint(highest * ratio) > w) highest = floor((w + 0.5 - 1e-7) / ratio);
    highest = highest < h ? highest : h;
    double box_h = rint(sqrt(min_area / ratio));
    box_h = box_h < highest ? box_h + pick(random.x[1], static_cast<uint32_t>(highest - box_h) + 1) : highest;
    // rounding may have put the area out of range by one row
    if (box_h * rint(box_h * ratio) < min_area) box_h += 1.0;
    if (box_h * rint(box_h * ratio) > max_area) box_h -= 1.0;
    const double box_w = rint(box_h * ratio), area = box_h * box_w;
    const bool fits = box_h >= 1.0 && box_h <= h && box_w >= 1.0 && box_w <= w;
    if (!fits || area < min_area || area > max_area || area < config.min_object_covered * h * w) continue;
    const int64_t bh = static_cast<int64_t>(box_h), bw = static_cast<int64_t>(box_w);
    return {
        pick(random.x[2], static_cast<uint32_t>(height - bh)), pick(random.x[3], static_cast<uint32_t>(width - bw)), bh,
        bw};
  }
  return {0, 0, height, width};
}

FASTCLR_HD double factor(uint32_t x, double strength) {
  const double lo = 1.0 - strength;
  return between(x, lo > 0.0 ? lo : 0.0, 1.0 + strength);
}

// writes one packed row of kParams floats; radius is blur_radius(size), and if it is 0, so is sigma
FASTCLR_HD void draw_params(
    const SamplerConfig& config, const SampleKey& key, int64_t height, int64_t width, int radius, float* out) {
  const Box box =
      config.style == kTorchvision ? draw_box(config, key, height, width) : draw_box_tf(config, key, height, width);
  const Random4 coins = draw(key, 16), colour = draw(key, 17), rest = draw(key, 18);
  const bool jitter = uniform(coins.x[1]) < config.jitter_p;
  const uint32_t sigma =
      config.blur_sigma_per_batch ? draw({key.seed, key.epoch, key.view, kNoId}, 18).x[1] : rest.x[1];
  const bool additive = config.style == kSimclrTfAdditive;
  const double brightness =
      additive ? between(colour.x[0], -config.brightness, config.brightness) : factor(colour.x[0], config.brightness);
  const bool blur = radius > 0 && uniform(rest.x[0]) < config.blur_p;
  out[kTop] = static_cast<float>(box.top);
  out[kLeft] = static_cast<float>(box.left);
  out[kHeight] = static_cast<float>(box.height);
  out[kWidth] = static_cast<float>(box.width);
  out[kFlip] = uniform(coins.x[0]) < config.flip_p ? 1.0f : 0.0f;
  out[kBrightness] = static_cast<float>(jitter ? brightness : additive ? 0.0 : 1.0);
  out[kContrast] = jitter ? static_cast<float>(factor(colour.x[1], config.contrast)) : 1.0f;
  out[kSaturation] = jitter ? static_cast<float>(factor(colour.x[2], config.saturation)) : 1.0f;
  out[kHue] = jitter ? static_cast<float>(between(colour.x[3], -config.hue, config.hue)) : 0.0f;
  out[kOrder] = jitter ? static_cast<float>(pick(coins.x[2], 24)) : -1.0f;
  out[kGray] = uniform(coins.x[3]) < config.gray_p ? 1.0f : 0.0f;
  out[kSigma] = blur ? static_cast<float>(between(sigma, config.blur_sigma_lo, config.blur_sigma_hi)) : 0.0f;
  out[kSolarize] = uniform(rest.x[2]) < config.solarize_p ? 1.0f : 0.0f;
  for (int i = kSolarize + 1; i < kParams; ++i) out[i] = 0.0f;
}

}  // namespace fastclr
