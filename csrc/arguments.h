// the operators' arguments as the back ends read them, and all checks that run before a byte is read
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "math/pixel.h"
#include "math/planes.h"
#include "math/sampler.h"
#include "math/view.h"

namespace fastclr {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_int64(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Long, name, " must be int64");
}

inline void check_sizes(const Tensor& sizes, int64_t samples) {
  check_int64(sizes, "sizes");
  STD_TORCH_CHECK(
      sizes.dim() == 2 && sizes.size(0) == samples && sizes.size(1) == 2, "sizes must be [", samples,
      ", 2]: height and width of every image");
}

inline void check_side(int64_t side, int64_t sample) {
  STD_TORCH_CHECK(valid_side(side), "image ", sample, " has a side of ", side, " pixels, expected 1 to ", kMaxSide);
}

inline Style make_style(int64_t style) {
  STD_TORCH_CHECK(style >= 0 && style < kStyles, "style must be 0 to ", static_cast<int>(kStyles) - 1, ", got ", style);
  return static_cast<Style>(style);
}

inline void check_output_size(int64_t size) {
  STD_TORCH_CHECK(size >= 1 && size <= 16384, "size must be 1 to 16384, got ", size);
}

// shapes, dtypes and devices of augment_params
inline void check_params_arguments(
    const Tensor& ids, const Tensor& sizes, int64_t epoch, int64_t first_view, int64_t views, int64_t size) {
  check_int64(ids, "ids");
  STD_TORCH_CHECK(ids.dim() == 1, "ids must have one dimension, got ", ids.dim());
  check_sizes(sizes, ids.size(0));
  STD_TORCH_CHECK(ids.device() == sizes.device(), "ids and sizes must be on one device");
  STD_TORCH_CHECK(epoch >= 0 && epoch <= 0xFFFFFFFFll, "epoch must be 0 to 2^32 - 1, got ", epoch);
  STD_TORCH_CHECK(
      first_view >= 0 && views >= 1 && first_view + views <= 65536, "views must lie in 0 to 65535, got ", views,
      " from ", first_view);
  check_output_size(size);
}

// shapes, dtypes and devices of augment_apply
inline void check_apply_arguments(
    const Tensor& data, const Tensor& offsets, const Tensor& sizes, const Tensor& params, int64_t size) {
  STD_TORCH_CHECK(
      data.scalar_type() == ScalarType::Byte && data.dim() == 1 && data.is_contiguous(),
      "data must be contiguous uint8 [bytes]");
  check_int64(offsets, "offsets");
  STD_TORCH_CHECK(offsets.dim() == 1, "offsets must have one dimension, got ", offsets.dim());
  const int64_t samples = offsets.size(0);
  check_sizes(sizes, samples);
  STD_TORCH_CHECK(params.scalar_type() == ScalarType::Float, "params must be float32");
  STD_TORCH_CHECK(
      params.dim() == 3 && params.size(1) == samples && params.size(2) == kParams, "params must be [views, ", samples,
      ", ", static_cast<int>(kParams), "]");
  STD_TORCH_CHECK(
      offsets.device() == data.device() && sizes.device() == data.device() && params.device() == data.device(),
      "data, offsets, sizes and params must be on one device");
  check_output_size(size);
}

inline void check_channels(int64_t channels) {
  STD_TORCH_CHECK(
      channels >= 1 && channels <= kMaxChannels, "channels must be 1 to ", kMaxChannels, ", got ", channels);
}

// mean 0 and scale 1 without a normalisation
template <typename Normalization>
Normalization make_normalize(const std::vector<double>& mean, const std::vector<double>& std, int64_t channels) {
  Normalization normalize;
  STD_TORCH_CHECK(
      mean.size() == std.size() && (mean.empty() || static_cast<int64_t>(mean.size()) == channels),
      "mean and std must both have 0 or ", channels, " values, got ", mean.size(), " and ", std.size());
  for (int64_t c = 0; c < channels; ++c) normalize.scale[c] = 1.0f;
  for (size_t c = 0; c < mean.size(); ++c) {
    STD_TORCH_CHECK(std::isfinite(mean[c]), "mean must be finite, got ", mean[c]);
    STD_TORCH_CHECK(std[c] > 0.0 && std::isfinite(std[c]), "std must be positive, got ", std[c]);
    normalize.mean[c] = static_cast<float>(mean[c]);
    normalize.scale[c] = static_cast<float>(1.0 / std[c]);
  }
  return normalize;
}

// the values that locate one image in data
inline void check_source(
    int64_t offset, int64_t height, int64_t width, int64_t bytes, int64_t sample, int64_t channels) {
  check_side(height, sample);
  check_side(width, sample);
  STD_TORCH_CHECK(
      valid_place(offset, height, width, bytes, channels), "image ", sample, " takes ", channels * height * width,
      " bytes from ", offset, " on, but data has ", bytes);
}

// the values of one packed row
inline void check_row(Style style, const float* row, int64_t height, int64_t width, int64_t view, int64_t sample) {
  STD_TORCH_CHECK(
      valid_box(row, height, width), "params[", view, ", ", sample, "]: crop box (top ", row[kTop], ", left ",
      row[kLeft], ", height ", row[kHeight], ", width ", row[kWidth], ") is not inside the image of ", height, " x ",
      width);
  STD_TORCH_CHECK(
      valid_order(row), "params[", view, ", ", sample, "]: order must be an integer from -1 to 23, got ", row[kOrder]);
  STD_TORCH_CHECK(valid_hue(row), "params[", view, ", ", sample, "]: hue must be in [-0.5, 0.5], got ", row[kHue]);
  for (const int field : {kBrightness, kContrast, kSaturation, kSigma}) {
    STD_TORCH_CHECK(
        valid_factor(style, row, field), "params[", view, ", ", sample, "]: field ", field, " must be in [",
        style == kSimclrTfAdditive && field == kBrightness ? "-1e6" : "0", ", 1e6], got ", row[field]);
  }
}

inline Element make_element(ScalarType dtype, const std::vector<double>& mean) {
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half ||
          dtype == ScalarType::Byte,
      "dtype must be float32, bfloat16, float16 or uint8");
  STD_TORCH_CHECK(
      dtype != ScalarType::Byte || mean.empty(), "uint8 views are not normalised: leave mean and std empty");
  if (dtype == ScalarType::Float) return kFloat32;
  return dtype == ScalarType::BFloat16 ? kBFloat16 : dtype == ScalarType::Half ? kFloat16 : kUint8;
}

// memory of the views: [views, samples, channels, size, size], or with the channels last for in_channel_order
inline Tensor new_views(
    const Tensor& data, int64_t views, int64_t samples, int64_t channels, int64_t size, ScalarType dtype,
    bool channels_last) {
  return channels_last ? torch::stable::new_empty(data, {views, samples, size, size, channels}, dtype)
                       : torch::stable::new_empty(data, {views, samples, channels, size, size}, dtype);
}

// that memory as [views, samples, channels, size, size]; the stable ABI of torch 2.11 has transpose, but no permute
inline Tensor in_channel_order(const Tensor& views, bool channels_last) {
  return channels_last ? torch::stable::transpose(torch::stable::transpose(views, 2, 4), 3, 4) : views;
}

}  // namespace fastclr
