// operator schemas; fastclr/augment/native.py repeats them for installations without this library
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(fastclr, m) {
  m.def(
      "augment_params(Tensor ids, Tensor sizes, int seed, SymInt epoch, int first_view, int views, int size, "
      "float crop_scale_lo, float crop_scale_hi, float crop_ratio_lo, float crop_ratio_hi, float log_ratio_lo, "
      "float log_ratio_hi, float flip_p, float brightness, float contrast, float saturation, float hue, "
      "float jitter_p, float gray_p, float blur_p, float blur_sigma_lo, float blur_sigma_hi, float solarize_p, "
      "float min_object_covered, int style, bool blur_sigma_per_batch) -> Tensor");
  m.def(
      "augment_apply(Tensor data, Tensor offsets, Tensor sizes, Tensor params, int size, int style, bool planar, "
      "float[] mean, float[] std, ScalarType dtype, bool channels_last) -> Tensor");
  m.def(
      "augment_planes(Tensor data, Tensor offsets, Tensor sizes, Tensor params, int channels, int size, int style, "
      "bool planar, float[] mean, float[] std, ScalarType dtype, bool channels_last) -> Tensor");
}
