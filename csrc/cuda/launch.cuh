// Grids and shared memory sizes: one launch for small views, three for large ones (two without blur).
#pragma once

#include <algorithm>

#include "kernels.cuh"
#include "planes.cuh"

namespace fastclr::cuda {

constexpr int kSmallSize = 96;
// batches whose canvases need more are computed in several passes: a canvas stays in the L2 cache between its kernels
constexpr int64_t kCanvasBytes = int64_t{1} << 25;
constexpr int64_t kMaxBlocks = 0x7FFFFFFF;

template <typename... Arguments>
cudaError_t launch(
    void (*kernel)(Arguments...), int64_t blocks, int threads, int64_t shared, cudaStream_t stream,
    Arguments... values) {
  if (blocks > kMaxBlocks) return cudaErrorInvalidConfiguration;
  if (shared > 48 * 1024) {
    // the attribute is the function's, and threads launch it for other sizes at the same time: all ask for the most
    int device = 0, limit = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, values...);
}

inline cudaError_t launch_params(const Draw& draw, cudaStream_t stream) {
  if (draw.rows == 0) return cudaSuccess;
  return launch(augment_params_kernel, (draw.rows + kDrawThreads - 1) / kDrawThreads, kDrawThreads, 0, stream, draw);
}

inline int small_threads(int size) { return size <= 48 ? 256 : kSmallThreads; }

inline int64_t small_shared(int size) {
  return scratch_bytes(size, small_threads(size)) + 4 * canvas_floats(size) +
         std::max(resize_bytes(size, size), blur_bytes(size, size));
}

// whether views of this size fit into shared memory; limit is the most a block can have
inline bool is_small(int size, int64_t limit) { return size <= kSmallSize && small_shared(size) <= limit; }

inline cudaError_t launch_small(const Batch& batch, cudaStream_t stream) {
  const int64_t views = batch.views * batch.samples;
  if (views == 0) return cudaSuccess;
  return launch(augment_small_kernel, views, small_threads(batch.size), small_shared(batch.size), stream, batch);
}

// the global memory that large views need
struct Plan {
  int64_t views;  // per pass
  int bands, band_rows;
};

inline Plan plan_large(int64_t views, int size, int channels = 3) {
  // as many rows of the blur as fit in 48 KiB, at least one
  const int rows = static_cast<int>(std::clamp<int64_t>(40 * 1024 / (int64_t{4} * size), 1, kBandRows));
  const int bands = (size + rows - 1) / rows;
  const int64_t fit = std::max<int64_t>(1, kCanvasBytes / (int64_t{4} * channels * size * size));
  return {std::max<int64_t>(1, std::min({views, fit, kMaxBlocks / bands})), bands, rows};
}

inline cudaError_t launch_large(const Batch& batch, const Plan& plan, float* canvas, Sums* sums, cudaStream_t stream) {
  const int size = batch.size, rows = plan.band_rows;
  const int64_t views = batch.views * batch.samples;
  cudaError_t error = cudaSuccess;
  for (int64_t first = 0; first < views && error == cudaSuccess; first += plan.views) {
    const Pass pass = {first, plan.bands, rows, canvas, sums};
    const int64_t blocks = std::min(plan.views, views - first) * plan.bands;
    error = launch(
        augment_resize_kernel, blocks, kBandThreads, 8 * kBandThreads + resize_bytes(size, rows), stream, batch, pass);
    if (error == cudaSuccess)
      error = launch(augment_colour_kernel, blocks, kBandThreads, 8 * kBandThreads, stream, batch, pass);
    if (error != cudaSuccess || blur_radius(size) == 0) continue;
    const int64_t shared = 8 * (blur_radius(size) + 1) + blur_bytes(size, rows);
    error = launch(augment_blur_kernel, blocks, kBandThreads, shared, stream, batch, pass);
  }
  return error;
}

// planes of any number of channels; plan.views counts planes, each of them a view of one channel
inline cudaError_t launch_planes(
    const PlaneBatch& planes, const Plan& plan, float* canvas, int64_t* sums, cudaStream_t stream) {
  const int size = planes.batch.size, rows = plan.band_rows;
  const int64_t count = planes.batch.views * planes.batch.samples * planes.channels;
  cudaError_t error = cudaSuccess;
  for (int64_t first = 0; first < count && error == cudaSuccess; first += plan.views) {
    const PlanePass pass = {first, plan.bands, rows, canvas, sums};
    const int64_t blocks = std::min(plan.views, count - first) * plan.bands;
    const int64_t taps = 8 * kBandThreads + tap_bytes(size, rows);
    error = launch(augment_plane_resize_kernel, blocks, kBandThreads, taps, stream, planes, pass);
    if (error == cudaSuccess)
      error = launch(augment_plane_colour_kernel, blocks, kBandThreads, 8 * kBandThreads, stream, planes, pass);
    if (error != cudaSuccess || blur_radius(size) == 0) continue;
    const int64_t shared = 8 * (blur_radius(size) + 1) + blur_bytes(size, rows);
    error = launch(augment_plane_blur_kernel, blocks, kBandThreads, shared, stream, planes, pass);
  }
  return error;
}

}  // namespace fastclr::cuda
