// The loops of contrast_loops.h for each instruction set, and the choice among them when the program runs. setup.py
// compiles this file with contraction: unlike the augmentation's, these sums need not round as other devices' do.
#include "contrast.h"

#include "contrast_loops.h"

namespace fastclr::cpu {

namespace {

#define FASTCLR_KERNELS(NAME, TARGET, LANES, ROWS)                                                         \
  namespace NAME {                                                                                         \
  using L = Loops<LANES, ROWS>;                                                                            \
  TARGET double normalise(const float* u, int64_t dim, int64_t padded, float* row) {                       \
    return L::normalise(u, dim, padded, row);                                                              \
  }                                                                                                        \
  TARGET double dot(const float* a, const float* b, int64_t dim) { return L::dot(a, b, dim); }             \
  TARGET void exponentials(const Tile& tile) { L::exponentials(tile); }                                    \
  TARGET void scale(const Tile& tile) { L::scale(tile); }                                                  \
  TARGET void multiply(const Product& product) { L::multiply(product); }                                   \
  TARGET double project(const Projection& row) { return L::project(row); }                                 \
  constexpr Kernels kernels = {ROWS, L::kColumns, normalise, dot, exponentials, scale, multiply, project}; \
  }

FASTCLR_KERNELS(four, , 4, 6)
#ifdef FASTCLR_X86_LEVELS
FASTCLR_KERNELS(eight, __attribute__((target("arch=x86-64-v3"))), 8, 6)
FASTCLR_KERNELS(sixteen, __attribute__((target("arch=x86-64-v4,prefer-vector-width=512"))), 16, 8)
#endif
#undef FASTCLR_KERNELS

}  // namespace

const Kernels* contrast_kernels(int64_t lanes) {
#ifdef FASTCLR_X86_LEVELS
  const bool v3 = __builtin_cpu_supports("x86-64-v3"), v4 = __builtin_cpu_supports("x86-64-v4");
  if (v4 && (lanes == 0 || lanes == 16)) return &sixteen::kernels;
  if (v3 && (lanes == 0 || lanes == 8)) return &eight::kernels;
#endif
  return lanes == 0 || lanes == 4 ? &four::kernels : nullptr;
}

}  // namespace fastclr::cpu
