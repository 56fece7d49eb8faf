// one augmented view of one image on the CPU
#pragma once

#include <cstdint>
#include <vector>

#include "../math/resize.h"
#include "../math/view.h"
#include "rows.h"

namespace fastclr::cpu {

template <typename T>
T* reserve(std::vector<T>& buffer, int64_t n) {
  if (buffer.size() < static_cast<size_t>(n)) buffer.resize(static_cast<size_t>(n));
  return buffer.data();
}

// where and how a view is written: planar [3, size, size] or interleaved [size, size, 3]
struct Output {
  Element element;
  bool interleaved;
  Normalize normalize;
};

// tables and buffers of one thread; they grow to the largest image seen and are then reused
struct Workspace {
  struct Axis {
    std::vector<Tap> taps_of;  // per output pixel
    std::vector<int> start, count;
    std::vector<float> weight;
    int stride = 0;
    // weights that sum to gain
    void build(Style style, int64_t in, int64_t size, bool mirrored, float gain);
    Taps taps() const { return {start.data(), count.data(), weight.data(), stride}; }
  };
  Axis x, y;
  std::vector<float> source_row;   // one row after the vertical pass, interleaved
  std::vector<float> source_rows;  // the same in three planes, for planar sources
  std::vector<float> image;        // planes of size * size
  std::vector<float> blurred;      // a row after the vertical blur, with its overhang
  std::vector<float> done;         // a row of each plane after the blur
  std::vector<float> weight;       // blur weights 0..reach
  std::vector<float> zeros;        // a row outside the image
  std::vector<const float*> up, down;
  std::vector<float> staged;  // interleaved pixels before the conversion to 16 bits
};

// the blur of one view, which keeps its tables in the workspace
class Blur {
 public:
  Blur(Style style, float sigma, int size, Workspace& work);
  // computes row y of a blurred plane
  void row(const float* plane, int y, float* out) const;

 private:
  int n_, reach_;
  bool mirrored_;  // TensorFlow pads with zeros
  float *weight_, *middle_;
  const float **up_, **down_;  // rows of the vertical pass, then shifts of the horizontal one
  const float* zeros_;
};

// draws view `row` (packed parameters) of `source` and writes size * size * 3 elements at `out`
void render_view(
    const Source& source, bool planar, Style style, const float* row, int64_t size, const Output& output,
    Workspace& work, void* out);

}  // namespace fastclr::cpu
