// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
#pragma once

#include <cstdint>

#include "hd.h"

namespace fastclr {

struct Random4 {
  uint32_t x[4];
};

FASTCLR_HD uint32_t mulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
}

FASTCLR_HD Random4 philox(const Random4& counter, uint32_t key0, uint32_t key1) {
  uint32_t c0 = counter.x[0], c1 = counter.x[1], c2 = counter.x[2], c3 = counter.x[3];
  for (int round = 0; round < 10; ++round) {
    const uint32_t hi0 = mulhi(0xD2511F53u, c0), lo0 = 0xD2511F53u * c0;
    const uint32_t hi1 = mulhi(0xCD9E8D57u, c2), lo1 = 0xCD9E8D57u * c2;
    c0 = hi1 ^ c1 ^ key0;
    c1 = lo1;
    c2 = hi0 ^ c3 ^ key1;
    c3 = lo0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// uniform in [0, 1) from the top 24 bits: a multiple of 2^-24 is exact in float, too
FASTCLR_HD double uniform(uint32_t x) { return static_cast<double>(x >> 8) * (1.0 / 16777216.0); }

// uniform integer in [0, n); n <= 2^32 / 1000 keeps the bias of the multiply-high method below 0.1 %
FASTCLR_HD uint32_t pick(uint32_t x, uint32_t n) { return mulhi(x, n); }

}  // namespace fastclr
