// fastclr._host: build information and the parameter sampler on NumPy arrays; needs no torch
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "../math/pixel.h"

namespace py = pybind11;

namespace {

using Ints = py::array_t<int64_t, py::array::c_style>;

py::dict build_info() {
  py::dict info;
#if defined(__clang__)
  info["compiler"] = std::string("clang ") + __clang_version__;
#else
  info["compiler"] = std::string("gcc ") + __VERSION__;
#endif
  info["cplusplus"] = static_cast<int64_t>(__cplusplus);
  info["python"] = PY_VERSION;
  info["pybind11"] = PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(PYBIND11_VERSION_MINOR);
  return info;
}

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const fastclr::Random4 out = fastclr::philox({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return {out.x[0], out.x[1], out.x[2], out.x[3]};
}

py::array_t<float> augment_params(
    const Ints& ids, const Ints& sizes, int64_t seed, int64_t epoch, int64_t first_view, int64_t views, int64_t size,
    double crop_scale_lo, double crop_scale_hi, double crop_ratio_lo, double crop_ratio_hi, double log_ratio_lo,
    double log_ratio_hi, double flip_p, double brightness, double contrast, double saturation, double hue,
    double jitter_p, double gray_p, double blur_p, double blur_sigma_lo, double blur_sigma_hi, double solarize_p,
    double min_object_covered, int64_t style, bool blur_sigma_per_batch) {
  const fastclr::SamplerConfig config = {crop_scale_lo, crop_scale_hi,
                                         crop_ratio_lo, crop_ratio_hi,
                                         log_ratio_lo,  log_ratio_hi,
                                         flip_p,        brightness,
                                         contrast,      saturation,
                                         hue,           jitter_p,
                                         gray_p,        blur_p,
                                         blur_sigma_lo, blur_sigma_hi,
                                         solarize_p,    min_object_covered,
                                         style,         blur_sigma_per_batch};
  if (ids.ndim() != 1) throw py::value_error("ids must have one dimension");
  const int64_t samples = ids.shape(0);
  if (sizes.ndim() != 2 || sizes.shape(0) != samples || sizes.shape(1) != 2) {
    throw py::value_error("sizes must be [" + std::to_string(samples) + ", 2]");
  }
  if (epoch < 0 || epoch > 0xFFFFFFFFll || first_view < 0 || views < 1 || first_view + views > 65536 || size < 1 ||
      style < 0 || style >= fastclr::kStyles) {
    throw py::value_error(
        "epoch must be 0 to 2^32 - 1, views must lie in 0 to 65535, size must be at least 1, style 0 to 2");
  }
  const int64_t *id = ids.data(), *side = sizes.data();
  for (int64_t n = 0; n < samples; ++n) {
    const int64_t h = side[2 * n], w = side[2 * n + 1];
    if (id[n] < 0 || h < 1 || w < 1 || h > fastclr::kMaxSide || w > fastclr::kMaxSide) {
      throw py::value_error("sample " + std::to_string(n) + ": ids must not be negative, sides must be 1 to 2^24");
    }
  }
  py::array_t<float> out({views, samples, static_cast<int64_t>(fastclr::kParams)});
  float* rows = out.mutable_data();
  const int radius = fastclr::blur_radius(static_cast<int>(size));
  for (int64_t i = 0; i < views * samples; ++i) {
    const int64_t n = i % samples;
    const fastclr::SampleKey key = {
        static_cast<uint64_t>(seed), static_cast<uint32_t>(epoch), static_cast<uint32_t>(first_view + i / samples),
        static_cast<uint64_t>(id[n])};
    fastclr::draw_params(config, key, side[2 * n], side[2 * n + 1], radius, rows + i * fastclr::kParams);
  }
  return out;
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Build information and the augmentation's parameter sampler on NumPy arrays.";
  m.def("build_info", &build_info, "Compiler, language level, Python and pybind11 of this build.");
  m.def("philox", &philox, py::arg("counter"), py::arg("key"), "One Philox4x32-10 block: four uint32.");
  m.def(
      "augment_params", &augment_params, py::arg("ids"), py::arg("sizes"), py::arg("seed"), py::arg("epoch"),
      py::arg("first_view"), py::arg("views"), py::arg("size"), py::arg("crop_scale_lo"), py::arg("crop_scale_hi"),
      py::arg("crop_ratio_lo"), py::arg("crop_ratio_hi"), py::arg("log_ratio_lo"), py::arg("log_ratio_hi"),
      py::arg("flip_p"), py::arg("brightness"), py::arg("contrast"), py::arg("saturation"), py::arg("hue"),
      py::arg("jitter_p"), py::arg("gray_p"), py::arg("blur_p"), py::arg("blur_sigma_lo"), py::arg("blur_sigma_hi"),
      py::arg("solarize_p"), py::arg("min_object_covered"), py::arg("style"), py::arg("blur_sigma_per_batch"),
      "Packed parameters: float32 [views, N, 16]; the arguments of fastclr::augment_params.");
}
