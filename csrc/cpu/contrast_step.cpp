#include "contrast_step.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

namespace fastclr::cpu {

namespace {

// exponentials are kept from the first visit of their tile to the second up to this size, and computed again beyond
constexpr int64_t kKeptBytes = 12 << 20;
// multiplications below which a second thread costs about what it saves
constexpr int64_t kSerial = 1500000;

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// edge of a tile: a quarter of the rows, so that several threads and the symmetry have something to share
int64_t choose_block(int64_t size, int64_t unit) {
  return std::min(round_up((size + 3) / 4, unit), kMaxTile / unit * unit);
}

}  // namespace

Floats::Floats(const torch::stable::Tensor& like, int64_t count)
    : memory_(torch::stable::new_empty(like, {count})), data_(memory_.mutable_data_ptr<float>()) {}

bool Rounds::find(int64_t slot, Place& place) const {
  const int64_t width = blocks / 2 + 1, r = slot / width, s = slot % width;
  // first the pairs with row + column = r, then those with r + blocks, whose rows are r + 1, r + 2, ...
  place = s <= r / 2 ? Place{r, s, r - s} : Place{r, r - r / 2 + s, blocks + r / 2 - s};
  return place.row <= place.column;
}

void Turns::wait(int64_t block, int64_t round) const {
  while (done_[static_cast<size_t>(block)].load(std::memory_order_acquire) != round) std::this_thread::yield();
}

template <class F>
void ContrastStep::on_threads(const F& work) const {
  if (threads_ == 1) return work(int64_t{0});
  torch::stable::parallel_for(0, threads_, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) work(thread);
  });
}

template <class F>
void ContrastStep::over_rows(int64_t count, const F& work) const {
  if (threads_ == 1) return work(int64_t{0}, count);
  torch::stable::parallel_for(0, count, 1, work);
}

ContrastStep::ContrastStep(
    const Kernels& kernels, const torch::stable::Tensor& z0, const torch::stable::Tensor& z1, double temperature)
    : kernels_(kernels),
      view_(z0),
      z0_(z0.const_data_ptr<float>()),
      z1_(z1.const_data_ptr<float>()),
      pairs_(z0.size(0)),
      size_(2 * pairs_),
      dim_(z0.size(1)),
      padded_(round_up(dim_, kernels.columns)),
      // an odd number of cache lines: rows at a power of two apart would share a few sets of the cache
      stride_(round_up(padded_, 32) + 16),
      temperature_(temperature),
      inverse_length_(static_cast<size_t>(size_)) {
  const int64_t unit = std::lcm(kernels.rows, kernels.columns), rows = round_up(size_, unit);
  block_ = choose_block(size_, unit);
  tile_stride_ = block_ + 16;
  rounds_ = {(size_ + block_ - 1) / block_};
  if (size_ * size_ * dim_ > kSerial) {
    threads_ = std::max<int64_t>(1, std::min<int64_t>(torch::stable::get_num_threads(), rounds_.slots()));
  }
  rows_ = Floats(view_, rows * stride_);
  columns_ = Floats(view_, rows * dim_);
  over_rows(rows / kernels.columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kernels_.columns; i < end * kernels_.columns; ++i) {
      if (i >= size_) {
        std::fill_n(row(i), stride_, 0.0f);
        continue;
      }
      const float* u = i < pairs_ ? z0_ + i * dim_ : z1_ + (i - pairs_) * dim_;
      inverse_length_[static_cast<size_t>(i)] = kernels_.normalise(u, dim_, padded_, row(i));
    }
    for (int64_t group = begin; group < end; ++group) {
      const float* from = row(group * kernels_.columns);
      float* to = columns_.data() + group * kernels_.columns * dim_;
      for (int64_t k = 0; k < dim_; ++k) {
        for (int64_t i = 0; i < kernels_.columns; ++i) to[k * kernels_.columns + i] = from[i * stride_ + k];
      }
    }
  });
}

Tile ContrastStep::tile(const Rounds::Place& place) const {
  const double scale = 1.0 / (temperature_ * std::log(2.0));
  Tile tile = {};
  tile.first_row = place.row * block_;
  tile.first_column = place.column * block_;
  tile.height = std::min(block_, size_ - tile.first_row);
  tile.width = std::min(block_, size_ - tile.first_column);
  tile.rows = row(tile.first_row);
  tile.columns = columns_.data() + tile.first_column * dim_;
  tile.stride = stride_;
  tile.dim = dim_;
  tile.pairs = pairs_;
  tile.scale_high = static_cast<float>(scale);
  tile.scale_low = static_cast<float>(scale - static_cast<double>(tile.scale_high));
  tile.out_stride = tile_stride_;
  return tile;
}

void ContrastStep::sum_negatives() {
  negatives_.assign(static_cast<size_t>(size_), 0.0);
  std::atomic<int64_t> next{0};
  Turns turns(rounds_.blocks);
  on_threads([&](int64_t) {
    double row_sum[kMaxTile], column_sum[kMaxTile];
    Rounds::Place place;
    const auto add = [&](int64_t block, const double* sum, int64_t count) {
      turns.wait(block, place.round);
      for (int64_t i = 0; i < count; ++i) negatives_[static_cast<size_t>(block * block_ + i)] += sum[i];
      turns.finish(block, place.round);
    };
    for (int64_t slot = next++; slot < rounds_.slots(); slot = next++) {
      if (!rounds_.find(slot, place)) continue;
      Tile t = tile(place);
      t.row_sum = row_sum;
      t.column_sum = column_sum;
      if (kept_.data() != nullptr) t.out = kept_.data() + slot * block_ * tile_stride_;
      kernels_.exponentials(t);
      add(place.row, row_sum, t.height);
      if (place.row != place.column) add(place.column, column_sum, t.width);
    }
  });
}

void ContrastStep::losses(double* loss, double* inverse, double* share, bool keep) {
  const int64_t kept = rounds_.slots() * block_ * tile_stride_;
  if (keep && kept * static_cast<int64_t>(sizeof(float)) <= kKeptBytes) kept_ = Floats(view_, kept);
  sum_negatives();
  over_rows(pairs_, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const double lengths = inverse_length_[static_cast<size_t>(i)] * inverse_length_[static_cast<size_t>(i + pairs_)];
      const double positive = std::exp(kernels_.dot(z0_ + i * dim_, z1_ + i * dim_, dim_) * lengths / temperature_);
      for (const int64_t r : {i, i + pairs_}) {
        const double negatives = negatives_[static_cast<size_t>(r)];
        loss[r] = std::log1p(negatives / positive);
        inverse[r] = 1.0 / (negatives + positive);
        share[r] = negatives * inverse[r];
      }
    }
  });
}

void ContrastStep::accumulate(const Floats& sums, const float* factor) {
  const bool ready = kept_.data() != nullptr;
  const int64_t tile_size = block_ * tile_stride_;
  const Floats own(view_, ready ? 0 : threads_ * tile_size);
  std::atomic<int64_t> next{0};
  Turns turns(rounds_.blocks);
  on_threads([&](int64_t thread) {
    Rounds::Place place;
    const auto add = [&](int64_t block, Product product) {
      turns.wait(block, place.round);
      product.b_stride = stride_;
      product.width = product.out_stride = padded_;
      product.out = sums.data() + block * block_ * padded_;
      product.fresh = place.round == 0;
      kernels_.multiply(product);
      turns.finish(block, place.round);
    };
    for (int64_t slot = next++; slot < rounds_.slots(); slot = next++) {
      if (!rounds_.find(slot, place)) continue;
      Tile t = tile(place);
      t.row_factor = factor + t.first_row;
      t.column_factor = factor + t.first_column;
      t.out = ready ? kept_.data() + slot * tile_size : own.data() + thread * tile_size;
      (ready ? kernels_.scale : kernels_.exponentials)(t);
      Product product = {};
      product.a = t.out;
      product.b = row(t.first_column);
      product.a_row = tile_stride_;
      product.a_column = 1;
      product.height = t.height;
      product.depth = t.width;
      add(place.row, product);
      if (place.row == place.column) continue;
      product.b = t.rows;
      std::swap(product.a_row, product.a_column);
      std::swap(product.height, product.depth);
      add(place.column, product);
    }
  });
}

double ContrastStep::gradient(
    const double* inverse, const double* share, const double* weight, double scale, float* dz0, float* dz1) {
  const int64_t rows = round_up(size_, std::lcm(kernels_.rows, kernels_.columns));
  std::vector<float> factor(static_cast<size_t>(rows), 0.0f);
  for (int64_t i = 0; i < size_; ++i) {
    factor[static_cast<size_t>(i)] = static_cast<float>(weight == nullptr ? inverse[i] : weight[i] * inverse[i]);
  }
  const Floats sums(view_, rows * padded_);
  accumulate(sums, factor.data());
  std::vector<double> along(static_cast<size_t>(size_));
  over_rows(size_, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t partner = i < pairs_ ? i + pairs_ : i - pairs_;
      const double pull =
          weight == nullptr ? share[i] + share[partner] : weight[i] * share[i] + weight[partner] * share[partner];
      const double length = inverse_length_[static_cast<size_t>(i)];
      Projection p = {};
      p.row = row(i);
      p.partner = row(partner);
      p.dim = dim_;
      p.padded = padded_;
      p.pull = static_cast<float>(pull);
      p.scale = static_cast<float>(scale / temperature_);
      p.inverse = length >= 1e12 ? 0.0f : static_cast<float>(length);
      p.sum = sums.data() + i * padded_;
      p.out = i < pairs_ ? dz0 + i * dim_ : dz1 + (i - pairs_) * dim_;
      along[static_cast<size_t>(i)] = kernels_.project(p);
    }
  });
  return std::accumulate(along.begin(), along.end(), 0.0) / (-2.0 * temperature_);
}

}  // namespace fastclr::cpu
