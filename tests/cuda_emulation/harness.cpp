// Runs the launches of csrc/cuda on host memory, for tests/test_augment_cuda_emulated.py.
#include <memory>

#include "../../csrc/cuda/launch.cuh"

alignas(16) double fastclr::cuda::shared_memory[kSharedLimit / 8 + 1024];

using namespace fastclr;
using namespace fastclr::cuda;

extern "C" int emulate_params(
    const int64_t* ids, const int64_t* sizes, float* out, int64_t samples, int64_t views, int64_t seed, int64_t epoch,
    int64_t first_view, int64_t size, const SamplerConfig* config) {
  const Draw draw = {
      ids,
      sizes,
      out,
      samples,
      views * samples,
      static_cast<uint64_t>(seed),
      static_cast<uint32_t>(epoch),
      static_cast<uint32_t>(first_view),
      blur_radius(static_cast<int>(size)),
      *config};
  return launch_params(draw, nullptr);
}

// path: 1 small, 2 large, with `fit` views in one pass
extern "C" int emulate_apply(const Batch* batch, int path, int64_t fit) {
  if (path == 1) return launch_small(*batch, nullptr);
  Plan plan = plan_large(batch->views * batch->samples, batch->size);
  plan.views = std::min(plan.views, fit);
  const int64_t pixels = int64_t{3} * batch->size * batch->size;
  const auto canvas = std::make_unique<float[]>(plan.views * pixels);
  const auto sums = std::make_unique<Sums[]>(plan.views * plan.bands);
  std::fill_n(canvas.get(), plan.views * pixels, NAN);
  return launch_large(*batch, plan, canvas.get(), sums.get(), nullptr);
}

// any number of channels, with `fit` planes in one pass
extern "C" int emulate_planes(const PlaneBatch* planes, int64_t fit) {
  const Batch& batch = planes->batch;
  Plan plan = plan_large(batch.views * batch.samples * planes->channels, batch.size, 1);
  plan.views = std::min(plan.views, fit);
  const int64_t pixels = int64_t{batch.size} * batch.size;
  const auto canvas = std::make_unique<float[]>(plan.views * pixels);
  const auto sums = std::make_unique<int64_t[]>(plan.views * plan.bands);
  std::fill_n(canvas.get(), plan.views * pixels, NAN);
  return launch_planes(*planes, plan, canvas.get(), sums.get(), nullptr);
}

// the shared memory that a launch for small views may use, after launches of all sizes
extern "C" int64_t emulate_small_allowance() {
  return static_cast<int64_t>(shared_attributes[reinterpret_cast<void*>(augment_small_kernel)]);
}

extern "C" int emulate_is_small(int size, int64_t limit) { return is_small(size, limit); }
