// one augmented view of one image of any number of channels on the CPU
#pragma once

#include "../math/planes.h"
#include "view.h"

namespace fastclr::cpu {

// where and how a view is written: planar [channels, size, size] or interleaved [size, size, channels]
struct PlaneOutput {
  int64_t channels;
  Element element;
  bool interleaved;
  PlaneNormalize normalize;
};

// draws view `row` (packed parameters) of `source` and writes size * size * channels elements at `out`
void render_planes(
    const Source& source, bool planar, Style style, const float* row, int64_t size, const PlaneOutput& output,
    Workspace& work, void* out);

}  // namespace fastclr::cpu
