// the operators of NT-Xent on a CPU; fastclr/losses/contrast_native.py has their schemas
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <vector>

#include "contrast_step.h"

namespace fastclr::cpu {

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Views {
  Tensor z0, z1;
  const Kernels* kernels;
  ContrastStep step(double temperature) const { return ContrastStep(*kernels, z0, z1, temperature); }
};

Views check(const Tensor& z0, const Tensor& z1, double temperature, int64_t lanes) {
  for (const Tensor* z : {&z0, &z1}) {
    STD_TORCH_CHECK(z->scalar_type() == ScalarType::Float, "z0 and z1 must be float32");
    STD_TORCH_CHECK(z->dim() == 2 && z->size(0) > 0 && z->size(1) > 0, "z0 and z1 must be [N, D] with N, D >= 1");
  }
  STD_TORCH_CHECK(z0.size(0) == z1.size(0) && z0.size(1) == z1.size(1), "z0 and z1 must have the same shape");
  // exp(s) and its sum over 2N rows stay within the exponents of float32 without a shift
  STD_TORCH_CHECK(
      1.0 / std::fabs(temperature) + std::log(2.0 * static_cast<double>(z0.size(0))) <= 87.3,
      "the temperature is too near to 0: ", temperature);
  const Kernels* kernels = contrast_kernels(lanes);
  STD_TORCH_CHECK(kernels != nullptr, "this processor has no vectors of ", lanes, " floats");
  return {torch::stable::contiguous(z0), torch::stable::contiguous(z1), kernels};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ntxent_cpu(
    const Tensor& z0, const Tensor& z1, double temperature, bool mean, bool gradient, int64_t lanes) {
  const Views views = check(z0, z1, temperature, lanes);
  ContrastStep step = views.step(temperature);
  const int64_t pairs = z0.size(0), size = 2 * pairs;
  const double scale = mean ? 1.0 / static_cast<double>(size) : 1.0;
  std::vector<double> rows(static_cast<size_t>(3 * size));
  double *loss = rows.data(), *inverse = loss + size, *share = inverse + size;
  step.losses(loss, inverse, share, gradient);
  const int64_t given = gradient ? pairs : 0;
  const Tensor value = torch::stable::new_empty(z0, std::vector<int64_t>{});
  const Tensor dtemperature = torch::stable::new_empty(z0, std::vector<int64_t>{});
  const Tensor dz0 = torch::stable::new_empty(z0, {given, z0.size(1)});
  const Tensor dz1 = torch::stable::new_empty(z0, {given, z0.size(1)});
  *value.mutable_data_ptr<float>() = static_cast<float>(scale * std::accumulate(loss, loss + size, 0.0));
  *dtemperature.mutable_data_ptr<float>() =
      gradient ? static_cast<float>(step.gradient(
                     inverse, share, nullptr, scale, dz0.mutable_data_ptr<float>(), dz1.mutable_data_ptr<float>()))
               : 0.0f;
  return {value, dz0, dz1, dtemperature};
}

std::tuple<Tensor, Tensor> ntxent_cpu_rows(const Tensor& z0, const Tensor& z1, double temperature, int64_t lanes) {
  const Views views = check(z0, z1, temperature, lanes);
  const int64_t size = 2 * z0.size(0);
  std::vector<double> loss(static_cast<size_t>(size));
  const Tensor terms = torch::stable::new_empty(z0, {2, size}, ScalarType::Double);
  double* inverse = terms.mutable_data_ptr<double>();
  views.step(temperature).losses(loss.data(), inverse, inverse + size, false);
  const Tensor rows = torch::stable::new_empty(z0, {size});
  std::copy(loss.begin(), loss.end(), rows.mutable_data_ptr<float>());
  return {rows, terms};
}

std::tuple<Tensor, Tensor, Tensor> ntxent_cpu_rows_bwd(
    const Tensor& z0, const Tensor& z1, const Tensor& terms_in, const Tensor& weight_in, double temperature,
    int64_t lanes) {
  const Views views = check(z0, z1, temperature, lanes);
  const int64_t pairs = z0.size(0), size = 2 * pairs;
  STD_TORCH_CHECK(
      terms_in.scalar_type() == ScalarType::Double && terms_in.dim() == 2 && terms_in.size(0) == 2 &&
          terms_in.size(1) == size,
      "terms must be float64 [2, 2N]");
  STD_TORCH_CHECK(
      weight_in.scalar_type() == ScalarType::Float && weight_in.dim() == 1 && weight_in.size(0) == size,
      "weight must be float32 [2N]");
  const Tensor terms = torch::stable::contiguous(terms_in), given = torch::stable::contiguous(weight_in);
  const float* raw = given.const_data_ptr<float>();
  // weights of at most 1, so that their products with 1 / Z stay within float32
  double scale = 0.0;
  for (int64_t i = 0; i < size; ++i) scale = std::max(scale, std::fabs(static_cast<double>(raw[i])));
  std::vector<double> weight(raw, raw + size);
  for (double& w : weight) w = scale > 0.0 ? w / scale : w;
  const double* inverse = terms.const_data_ptr<double>();
  const Tensor dz0 = torch::stable::new_empty(z0, {pairs, z0.size(1)});
  const Tensor dz1 = torch::stable::new_empty(z0, {pairs, z0.size(1)});
  const Tensor dtemperature = torch::stable::new_empty(z0, std::vector<int64_t>{});
  *dtemperature.mutable_data_ptr<float>() =
      static_cast<float>(views.step(temperature)
                             .gradient(
                                 inverse, inverse + size, weight.data(), scale, dz0.mutable_data_ptr<float>(),
                                 dz1.mutable_data_ptr<float>()));
  return {dz0, dz1, dtemperature};
}

}  // namespace

}  // namespace fastclr::cpu

#ifdef FASTCLR_X86_LEVELS
STABLE_TORCH_LIBRARY_IMPL(fastclr, CPU, m) {
  m.impl("ntxent_cpu", TORCH_BOX(&fastclr::cpu::ntxent_cpu));
  m.impl("ntxent_cpu_rows", TORCH_BOX(&fastclr::cpu::ntxent_cpu_rows));
  m.impl("ntxent_cpu_rows_bwd", TORCH_BOX(&fastclr::cpu::ntxent_cpu_rows_bwd));
}
#endif
