// the CPU back end of the augmentation: checks, then one task per (sample, view) on torch's threads
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <atomic>

#include "../arguments.h"
#include "planes.h"
#include "view.h"

namespace fastclr::cpu {

namespace {

// Large views are fresh memory at every call, and page faults take a fifth of the time, which huge pages save.
// This is only advice to the kernel, so failure is not an error.
void advise_huge_pages([[maybe_unused]] void* begin, [[maybe_unused]] size_t bytes) {
#ifdef __linux__
  constexpr uintptr_t kHuge = 2 << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + kHuge - 1) & ~(kHuge - 1);
  const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + bytes) & ~(kHuge - 1);
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

Tensor augment_params(
    const Tensor& ids_in, const Tensor& sizes_in, int64_t seed, int64_t epoch, int64_t first_view, int64_t views,
    int64_t size, double crop_scale_lo, double crop_scale_hi, double crop_ratio_lo, double crop_ratio_hi,
    double log_ratio_lo, double log_ratio_hi, double flip_p, double brightness, double contrast, double saturation,
    double hue, double jitter_p, double gray_p, double blur_p, double blur_sigma_lo, double blur_sigma_hi,
    double solarize_p, double min_object_covered, int64_t style, bool blur_sigma_per_batch) {
  check_params_arguments(ids_in, sizes_in, epoch, first_view, views, size);
  make_style(style);
  const SamplerConfig config = {crop_scale_lo, crop_scale_hi,
                                crop_ratio_lo, crop_ratio_hi,
                                log_ratio_lo,  log_ratio_hi,
                                flip_p,        brightness,
                                contrast,      saturation,
                                hue,           jitter_p,
                                gray_p,        blur_p,
                                blur_sigma_lo, blur_sigma_hi,
                                solarize_p,    min_object_covered,
                                style,         blur_sigma_per_batch};
  const Tensor ids = torch::stable::contiguous(ids_in), sizes = torch::stable::contiguous(sizes_in);
  const int64_t samples = ids.size(0);
  const int64_t* id = ids.const_data_ptr<int64_t>();
  const int64_t* side = sizes.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < samples; ++n) {
    STD_TORCH_CHECK(id[n] >= 0, "ids[", n, "] must not be negative, got ", id[n]);
    check_side(side[2 * n], n);
    check_side(side[2 * n + 1], n);
  }
  Tensor out = torch::stable::new_empty(ids, {views, samples, kParams}, ScalarType::Float);
  float* rows = out.mutable_data_ptr<float>();
  const int radius = blur_radius(static_cast<int>(size));
  torch::stable::parallel_for(0, views * samples, 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i % samples;
      const SampleKey key = {
          static_cast<uint64_t>(seed), static_cast<uint32_t>(epoch), static_cast<uint32_t>(first_view + i / samples),
          static_cast<uint64_t>(id[n])};
      draw_params(config, key, side[2 * n], side[2 * n + 1], radius, rows + i * kParams);
    }
  });
  return out;
}

// checks the values, and computes every view with render(source, packed row, workspace, where to write)
template <typename Render>
Tensor render_all(
    const Tensor& data, const Tensor& offsets_in, const Tensor& sizes_in, const Tensor& params_in, int64_t channels,
    int64_t size, Style style, ScalarType dtype, bool channels_last, Render render) {
  const Tensor offsets = torch::stable::contiguous(offsets_in), sizes = torch::stable::contiguous(sizes_in);
  const Tensor params = torch::stable::contiguous(params_in);
  const int64_t views = params.size(0), samples = params.size(1), bytes = data.numel();
  const uint8_t* first = data.const_data_ptr<uint8_t>();
  const int64_t* offset = offsets.const_data_ptr<int64_t>();
  const int64_t* side = sizes.const_data_ptr<int64_t>();
  const float* rows = params.const_data_ptr<float>();
  for (int64_t n = 0; n < samples; ++n) {
    check_source(offset[n], side[2 * n], side[2 * n + 1], bytes, n, channels);
    for (int64_t v = 0; v < views; ++v)
      check_row(style, rows + (v * samples + n) * kParams, side[2 * n], side[2 * n + 1], v, n);
  }

  Tensor out = new_views(data, views, samples, channels, size, dtype, channels_last);
  const int64_t view_bytes = channels * size * size * static_cast<int64_t>(out.element_size());
  char* pixels = static_cast<char*>(out.mutable_data_ptr());
  advise_huge_pages(pixels, static_cast<size_t>(view_bytes * views * samples));
  std::atomic<int64_t> next{0};
  // images differ in cost, so each thread takes the next one when it is free; an image's views share its cache lines
  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t, int64_t) {
    thread_local Workspace work;
    for (int64_t i = next++; i < views * samples; i = next++) {
      const int64_t n = i / views, slot = i % views * samples + n;
      const Source source = {first + offset[n], side[2 * n], side[2 * n + 1]};
      render(source, rows + slot * kParams, work, pixels + slot * view_bytes);
    }
  });
  return in_channel_order(out, channels_last);
}

Tensor augment_apply(
    const Tensor& data, const Tensor& offsets, const Tensor& sizes, const Tensor& params, int64_t size,
    int64_t style_in, bool planar, const std::vector<double>& mean, const std::vector<double>& std, ScalarType dtype,
    bool channels_last) {
  check_apply_arguments(data, offsets, sizes, params, size);
  const Style style = make_style(style_in);
  const Output output = {make_element(dtype, mean), channels_last, make_normalize<Normalize>(mean, std, 3)};
  const auto render = [&](const Source& source, const float* row, Workspace& work, void* out) {
    render_view(source, planar, style, row, size, output, work, out);
  };
  return render_all(data, offsets, sizes, params, 3, size, style, dtype, channels_last, render);
}

Tensor augment_planes(
    const Tensor& data, const Tensor& offsets, const Tensor& sizes, const Tensor& params, int64_t channels,
    int64_t size, int64_t style_in, bool planar, const std::vector<double>& mean, const std::vector<double>& std,
    ScalarType dtype, bool channels_last) {
  check_apply_arguments(data, offsets, sizes, params, size);
  check_channels(channels);
  const Style style = make_style(style_in);
  const PlaneOutput output = {
      channels, make_element(dtype, mean), channels_last, make_normalize<PlaneNormalize>(mean, std, channels)};
  const auto render = [&](const Source& source, const float* row, Workspace& work, void* out) {
    render_planes(source, planar, style, row, size, output, work, out);
  };
  return render_all(data, offsets, sizes, params, channels, size, style, dtype, channels_last, render);
}

}  // namespace

}  // namespace fastclr::cpu

STABLE_TORCH_LIBRARY_IMPL(fastclr, CPU, m) {
  m.impl("augment_params", TORCH_BOX(&fastclr::cpu::augment_params));
  m.impl("augment_apply", TORCH_BOX(&fastclr::cpu::augment_apply));
  m.impl("augment_planes", TORCH_BOX(&fastclr::cpu::augment_planes));
}
