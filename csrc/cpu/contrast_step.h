// NT-Xent of two views on a CPU: sums of exponentials over all tiles, losses, then the gradient over the same tiles
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <atomic>
#include <cstdint>
#include <vector>

#include "contrast.h"

namespace fastclr::cpu {

// Floats on a cache line's boundary, from torch's allocator, so that its profiler sees them. They are not cleared.
class Floats {
 public:
  Floats() = default;
  Floats(const torch::stable::Tensor& like, int64_t count);
  float* data() const { return data_; }

 private:
  torch::stable::Tensor memory_;
  float* data_ = nullptr;
};

// The tiles on and above the diagonal in rounds: in round r block i meets block r - i (modulo the number of blocks), so
// that no two tiles of a round share a block. Threads take tiles in this order, and what they add to a block waits for
// the rounds before: sums do not depend on the number of threads, and no thread waits long.
struct Rounds {
  struct Place {
    int64_t round, row, column;  // row <= column
  };
  int64_t blocks;
  int64_t slots() const { return blocks * (blocks / 2 + 1); }
  // false: this slot is empty
  bool find(int64_t slot, Place& place) const;
};

// the rounds that are finished, block by block
class Turns {
 public:
  explicit Turns(int64_t blocks) : done_(static_cast<size_t>(blocks)) {}
  void wait(int64_t block, int64_t round) const;
  void finish(int64_t block, int64_t round) {
    done_[static_cast<size_t>(block)].store(round + 1, std::memory_order_release);
  }

 private:
  std::vector<std::atomic<int64_t>> done_;
};

class ContrastStep {
 public:
  // z0, z1: [pairs, dim], float32, contiguous; normalises and packs the rows
  ContrastStep(
      const Kernels& kernels, const torch::stable::Tensor& z0, const torch::stable::Tensor& z1, double temperature);

  // loss[i] = log(1 + negatives / exp(s_ip)); inverse[i] = 1 / (negatives + exp(s_ip)), share[i] = negatives *
  // inverse[i]; keep: the exponentials stay for `gradient`, if they are few
  void losses(double* loss, double* inverse, double* share, bool keep);

  // gradient of scale * sum_i weight[i] loss[i] (weight null: ones); returns the derivative by the temperature
  double gradient(
      const double* inverse, const double* share, const double* weight, double scale, float* dz0, float* dz1);

 private:
  Tile tile(const Rounds::Place& place) const;
  float* row(int64_t i) const { return rows_.data() + i * stride_; }
  template <class F>
  void on_threads(const F& work) const;
  template <class F>
  void over_rows(int64_t count, const F& work) const;
  void sum_negatives();
  void accumulate(const Floats& sums, const float* factor);

  const Kernels& kernels_;
  const torch::stable::Tensor view_;
  const float *z0_, *z1_;
  int64_t pairs_, size_, dim_, padded_, stride_, block_, tile_stride_;
  int64_t threads_ = 1;
  double temperature_;
  Rounds rounds_;
  Floats rows_, columns_, kept_;
  std::vector<double> inverse_length_, negatives_;
};

}  // namespace fastclr::cpu
