#include "rows.h"

#include <algorithm>

// one library for every x86-64 processor: the loader picks the widest version, and all of them round alike
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && !defined(FASTCLR_NO_CLONES)
#define FASTCLR_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FASTCLR_CLONES
#endif

namespace fastclr::cpu {

FASTCLR_CLONES void mix_rows(
    const uint8_t* source, int64_t pitch, const float* weight, int taps, int64_t n, float* __restrict out) {
  const uint8_t* __restrict s = source;
  if (taps == 1) {
    const float w = weight[0];
    for (int64_t i = 0; i < n; ++i) out[i] = w * static_cast<float>(s[i]);
    return;
  }
  const float w0 = weight[0], w1 = weight[1];
  for (int64_t i = 0; i < n; ++i) {
    out[i] = w0 * static_cast<float>(s[i]) + w1 * static_cast<float>(s[pitch + i]);
  }
  int t = 2;
  for (; t + 1 < taps; t += 2) {
    const uint8_t* __restrict a = source + t * pitch;
    const float u0 = weight[t], u1 = weight[t + 1];
    for (int64_t i = 0; i < n; ++i) {
      out[i] += u0 * static_cast<float>(a[i]) + u1 * static_cast<float>(a[pitch + i]);
    }
  }
  if (t < taps) {
    const uint8_t* __restrict a = source + t * pitch;
    const float u = weight[t];
    for (int64_t i = 0; i < n; ++i) out[i] += u * static_cast<float>(a[i]);
  }
}

// four floats: one pixel and a neighbour's first channel, which is discarded
typedef float Quad __attribute__((vector_size(16), aligned(4), may_alias));

FASTCLR_HD Quad quad_at(const float* p) { return *reinterpret_cast<const Quad*>(p); }

// output pixels x .. x + kWide - 1 of a row, whose sums do not wait for each other
template <int kWide>
FASTCLR_HD void resample_run(const float* row, const Taps& taps, int64_t x, Planes out) {
  const int64_t count = taps.stride;
  const float *pixel[kWide], *weight = taps.weight + x * count;
  Quad sum[kWide];
  for (int i = 0; i < kWide; ++i) {
    pixel[i] = row + 3 * static_cast<int64_t>(taps.start[x + i]);
    sum[i] = Quad{0.0f, 0.0f, 0.0f, 0.0f};
  }
  // all pixels use the same number of taps; those beyond a pixel's own have zero weight
  for (int64_t t = 0; t < count; ++t) {
    for (int i = 0; i < kWide; ++i) sum[i] += weight[i * count + t] * quad_at(pixel[i] + 3 * t);
  }
  for (int i = 0; i < kWide; ++i) out.r[x + i] = sum[i][0];
  for (int i = 0; i < kWide; ++i) out.g[x + i] = sum[i][1];
  for (int i = 0; i < kWide; ++i) out.b[x + i] = sum[i][2];
}

FASTCLR_CLONES void resample_plane(const float* row, int64_t step, const Taps& taps, int64_t n, float* __restrict out) {
  for (int64_t x = 0; x < n; ++x) {
    const float* pixel = row + step * static_cast<int64_t>(taps.start[x]);
    const float* weight = taps.weight + x * taps.stride;
    float sum = 0.0f;
    for (int t = 0; t < taps.count[x]; ++t) sum += weight[t] * pixel[t * step];
    out[x] = sum;
  }
}

FASTCLR_CLONES void resample_row(const float* row, const Taps& taps, int64_t n, Planes out) {
  int64_t x = 0;
  for (; x + 4 <= n; x += 4) resample_run<4>(row, taps, x, out);
  for (; x < n; ++x) resample_run<1>(row, taps, x, out);
}

// applies a per-pixel function to a run of pixels
#define FASTCLR_MAP(EXPRESSION)                              \
  float* __restrict r = planes.r, * __restrict g = planes.g; \
  float* __restrict b = planes.b;                            \
  for (int64_t i = 0; i < n; ++i) {                          \
    const Pixel p = {r[i], g[i], b[i]};                      \
    const Pixel q = EXPRESSION;                              \
    r[i] = q.r;                                              \
    g[i] = q.g;                                              \
    b[i] = q.b;                                              \
  }

FASTCLR_CLONES void brightness_row(Planes planes, int64_t n, float factor, float summand){
    FASTCLR_MAP(adjust_brightness(p, factor, summand))}

FASTCLR_CLONES void contrast_row(Planes planes, int64_t n, float factor, Pixel offset){
    FASTCLR_MAP(adjust_contrast(p, factor, offset))}

FASTCLR_CLONES void saturation_row(Planes planes, int64_t n, float factor){FASTCLR_MAP(adjust_saturation(p, factor))}

FASTCLR_CLONES void hsv_saturation_row(Planes planes, int64_t n, float factor){FASTCLR_MAP(scale_saturation(p, factor))}

FASTCLR_CLONES void hue_row(Planes planes, int64_t n, float shift6){FASTCLR_MAP(adjust_hue(p, shift6))}

FASTCLR_CLONES void clamp_row(Planes planes, int64_t n){FASTCLR_MAP(clamp_pixel(p))}

FASTCLR_CLONES void gray_row(Planes planes, int64_t n){FASTCLR_MAP((Pixel{luma(p), luma(p), luma(p)}))}

FASTCLR_CLONES
    void solarize_row(Planes planes, int64_t n){FASTCLR_MAP((Pixel{solarize(p.r), solarize(p.g), solarize(p.b)}))}
#undef FASTCLR_MAP

FASTCLR_CLONES int64_t luma_sum(Planes planes, int64_t n) {
  int64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += fixed(luma({planes.r[i], planes.g[i], planes.b[i]}));
  return sum;
}

FASTCLR_CLONES int64_t channel_sum(const float* row, int64_t n) {
  int64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += fixed(row[i]);
  return sum;
}

// eight floats: one register of AVX2, two of SSE or NEON
typedef float Octet __attribute__((vector_size(32), aligned(4), may_alias));

// thirty-two pixels, which stay in registers during the loop over taps
FASTCLR_HD void blur_run(
    const float* const* up, const float* const* down, const float* weight, int reach, int64_t x, float* out) {
  const Octet* centre = reinterpret_cast<const Octet*>(up[0] + x);
  Octet a = weight[0] * centre[0], b = weight[0] * centre[1], c = weight[0] * centre[2], d = weight[0] * centre[3];
  for (int i = 1; i <= reach; ++i) {
    const float w = weight[i];
    const Octet* p = reinterpret_cast<const Octet*>(up[i] + x);
    const Octet* q = reinterpret_cast<const Octet*>(down[i] + x);
    a += w * (p[0] + q[0]);
    b += w * (p[1] + q[1]);
    c += w * (p[2] + q[2]);
    d += w * (p[3] + q[3]);
  }
  Octet* target = reinterpret_cast<Octet*>(out + x);
  target[0] = a;
  target[1] = b;
  target[2] = c;
  target[3] = d;
}

FASTCLR_CLONES void blur_rows(
    const float* const* up, const float* const* down, const float* weight, int reach, int64_t n, float* out) {
  int64_t x = 0;
  for (; x + 32 <= n; x += 32) blur_run(up, down, weight, reach, x, out);
  for (; x < n; ++x) {
    float sum = weight[0] * up[0][x];
    for (int i = 1; i <= reach; ++i) sum += weight[i] * (up[i][x] + down[i][x]);
    out[x] = sum;
  }
}

FASTCLR_CLONES void blend_row(float* row, int64_t n, float factor, float offset) {
  for (int64_t i = 0; i < n; ++i) row[i] = blend(row[i], factor, offset);
}

FASTCLR_CLONES void solarize_plane(float* row, int64_t n) {
  for (int64_t i = 0; i < n; ++i) row[i] = solarize(row[i]);
}

FASTCLR_CLONES void normalize_row(float* row, int64_t n, float mean, float scale) {
  for (int64_t i = 0; i < n; ++i) row[i] = (row[i] - mean) * scale;
}

FASTCLR_CLONES void interleave_row(Planes p, int64_t n, float* __restrict out) {
  const float* __restrict r = p.r, * __restrict g = p.g, * __restrict b = p.b;
  for (int64_t i = 0; i < n; ++i) {
    out[3 * i] = r[i];
    out[3 * i + 1] = g[i];
    out[3 * i + 2] = b[i];
  }
}

void store_row(const float* in, int64_t n, Element element, char* out) {
  if (element == kFloat32) {
    std::copy_n(in, n, reinterpret_cast<float*>(out));
  } else if (element == kBFloat16) {
    bfloat16_row(in, n, reinterpret_cast<uint16_t*>(out));
  } else if (element == kUint8) {
    byte_row(in, n, reinterpret_cast<uint8_t*>(out));
  } else {
    half_row(in, n, reinterpret_cast<uint16_t*>(out));
  }
}

FASTCLR_CLONES void bfloat16_row(const float* __restrict in, int64_t n, uint16_t* __restrict out) {
  for (int64_t i = 0; i < n; ++i) out[i] = bfloat16_bits(in[i]);
}

FASTCLR_CLONES void half_row(const float* __restrict in, int64_t n, uint16_t* __restrict out) {
  for (int64_t i = 0; i < n; ++i) out[i] = half_bits(in[i]);
}

FASTCLR_CLONES void byte_row(const float* __restrict in, int64_t n, uint8_t* __restrict out) {
  for (int64_t i = 0; i < n; ++i) out[i] = byte_value(in[i]);
}

}  // namespace fastclr::cpu
