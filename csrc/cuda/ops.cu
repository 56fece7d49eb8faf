// the CUDA back end of the augmentation: checks shapes, types and devices, allocates with torch, launches
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../arguments.h"
#include "launch.cuh"

namespace fastclr::cuda {

namespace {

using torch::stable::accelerator::DeviceGuard;

cudaStream_t current_stream(int32_t device) {
  void* stream = nullptr;
  STD_TORCH_CHECK(
      aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS, "device ", device,
      " has no current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

int64_t shared_limit(int32_t device) {
  int limit = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return limit;
}

Tensor augment_params(
    const Tensor& ids_in, const Tensor& sizes_in, int64_t seed, int64_t epoch, int64_t first_view, int64_t views,
    int64_t size, double crop_scale_lo, double crop_scale_hi, double crop_ratio_lo, double crop_ratio_hi,
    double log_ratio_lo, double log_ratio_hi, double flip_p, double brightness, double contrast, double saturation,
    double hue, double jitter_p, double gray_p, double blur_p, double blur_sigma_lo, double blur_sigma_hi,
    double solarize_p, double min_object_covered, int64_t style, bool blur_sigma_per_batch) {
  check_params_arguments(ids_in, sizes_in, epoch, first_view, views, size);
  make_style(style);
  const DeviceGuard guard(ids_in.get_device_index());
  const Tensor ids = torch::stable::contiguous(ids_in), sizes = torch::stable::contiguous(sizes_in);
  const int64_t samples = ids.size(0);
  Tensor out = torch::stable::new_empty(ids, {views, samples, kParams}, ScalarType::Float);
  const Draw draw = {
      ids.const_data_ptr<int64_t>(),
      sizes.const_data_ptr<int64_t>(),
      out.mutable_data_ptr<float>(),
      samples,
      views * samples,
      static_cast<uint64_t>(seed),
      static_cast<uint32_t>(epoch),
      static_cast<uint32_t>(first_view),
      blur_radius(static_cast<int>(size)),
      {crop_scale_lo, crop_scale_hi,
       crop_ratio_lo, crop_ratio_hi,
       log_ratio_lo,  log_ratio_hi,
       flip_p,        brightness,
       contrast,      saturation,
       hue,           jitter_p,
       gray_p,        blur_p,
       blur_sigma_lo, blur_sigma_hi,
       solarize_p,    min_object_covered,
       style,         blur_sigma_per_batch}};
  STD_CUDA_CHECK(launch_params(draw, current_stream(ids.get_device_index())));
  return out;
}

// what the kernels read; offsets, sizes and params are contiguous
Batch make_batch(
    const Tensor& data, const Tensor& offsets, const Tensor& sizes, const Tensor& params, int64_t size, Style style,
    bool planar, Tensor& out, Element element, bool channels_last) {
  return {
      data.const_data_ptr<uint8_t>(),
      data.numel(),
      offsets.const_data_ptr<int64_t>(),
      sizes.const_data_ptr<int64_t>(),
      params.const_data_ptr<float>(),
      params.size(0),
      params.size(1),
      static_cast<int>(size),
      style,
      planar,
      out.mutable_data_ptr(),
      element,
      channels_last,
      {}};
}

Tensor augment_apply(
    const Tensor& data, const Tensor& offsets_in, const Tensor& sizes_in, const Tensor& params_in, int64_t size,
    int64_t style_in, bool planar, const std::vector<double>& mean, const std::vector<double>& std, ScalarType dtype,
    bool channels_last) {
  check_apply_arguments(data, offsets_in, sizes_in, params_in, size);
  const Style style = make_style(style_in);
  const Element element = make_element(dtype, mean);
  const Normalize normalize = make_normalize<Normalize>(mean, std, 3);
  const int32_t device = data.get_device_index();
  const DeviceGuard guard(device);
  const Tensor offsets = torch::stable::contiguous(offsets_in), sizes = torch::stable::contiguous(sizes_in);
  const Tensor params = torch::stable::contiguous(params_in);
  const int64_t views = params.size(0), samples = params.size(1);
  Tensor out = new_views(data, views, samples, 3, size, dtype, channels_last);
  Batch batch = make_batch(data, offsets, sizes, params, size, style, planar, out, element, channels_last);
  batch.normalize = normalize;
  const cudaStream_t stream = current_stream(device);
  if (is_small(batch.size, shared_limit(device))) {
    STD_CUDA_CHECK(launch_small(batch, stream));
  } else {
    const Plan plan = plan_large(views * samples, batch.size);
    // freed on return, but torch's allocator reuses it only after the launches on this stream
    Tensor canvas = torch::stable::new_empty(data, {plan.views, 3, size, size}, ScalarType::Float);
    Tensor sums = torch::stable::new_empty(data, {plan.views, plan.bands, 3}, ScalarType::Long);
    STD_CUDA_CHECK(launch_large(
        batch, plan, canvas.mutable_data_ptr<float>(), static_cast<Sums*>(sums.mutable_data_ptr()), stream));
  }
  return in_channel_order(out, channels_last);
}

Tensor augment_planes(
    const Tensor& data, const Tensor& offsets_in, const Tensor& sizes_in, const Tensor& params_in, int64_t channels,
    int64_t size, int64_t style_in, bool planar, const std::vector<double>& mean, const std::vector<double>& std,
    ScalarType dtype, bool channels_last) {
  check_apply_arguments(data, offsets_in, sizes_in, params_in, size);
  check_channels(channels);
  const Style style = make_style(style_in);
  const Element element = make_element(dtype, mean);
  const PlaneNormalize normalize = make_normalize<PlaneNormalize>(mean, std, channels);
  const int32_t device = data.get_device_index();
  const DeviceGuard guard(device);
  const Tensor offsets = torch::stable::contiguous(offsets_in), sizes = torch::stable::contiguous(sizes_in);
  const Tensor params = torch::stable::contiguous(params_in);
  const int64_t views = params.size(0), samples = params.size(1);
  Tensor out = new_views(data, views, samples, channels, size, dtype, channels_last);
  const Batch batch = make_batch(data, offsets, sizes, params, size, style, planar, out, element, channels_last);
  const PlaneBatch planes = {batch, static_cast<int>(channels), normalize};
  const Plan plan = plan_large(views * samples * channels, batch.size, 1);
  Tensor canvas = torch::stable::new_empty(data, {plan.views, size, size}, ScalarType::Float);
  Tensor sums = torch::stable::new_empty(data, {plan.views, plan.bands}, ScalarType::Long);
  STD_CUDA_CHECK(launch_planes(
      planes, plan, canvas.mutable_data_ptr<float>(), sums.mutable_data_ptr<int64_t>(), current_stream(device)));
  return in_channel_order(out, channels_last);
}

}  // namespace

}  // namespace fastclr::cuda

STABLE_TORCH_LIBRARY_IMPL(fastclr, CUDA, m) {
  m.impl("augment_params", TORCH_BOX(&fastclr::cuda::augment_params));
  m.impl("augment_apply", TORCH_BOX(&fastclr::cuda::augment_apply));
  m.impl("augment_planes", TORCH_BOX(&fastclr::cuda::augment_planes));
}
