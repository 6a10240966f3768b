// Vectors of FG_LANES floats (GCC/Clang vector extensions), and the few intrinsics those lack. CPU only.
#pragma once
#include <cstdint>
#include <cstring>

#include "image.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace flowguide::FG_ISA {

#if defined(__AVX2__)
constexpr int kLanes = 8;  // with AVX-512 too: eight neighbours fit one patch (sample_block.h) more often than sixteen
#else
constexpr int kLanes = 4;
#endif

typedef float vfloat __attribute__((vector_size(4 * kLanes)));
typedef int32_t vint __attribute__((vector_size(4 * kLanes)));

FG_HD vfloat splat(float value) { return vfloat{} + value; }
FG_HD vint splat(int32_t value) { return vint{} + value; }

FG_HD vfloat load(const float* p) {
  vfloat v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
FG_HD void store(float* p, vfloat v) { std::memcpy(p, &v, sizeof v); }

// The first `count` lanes, the others 0.
FG_HD vfloat load(const float* p, int64_t count) {
  if (count >= kLanes) return load(p);
  vfloat v = {};
  for (int i = 0; i < count; ++i) v[i] = p[i];
  return v;
}
FG_HD void store(float* p, vfloat v, int64_t count) {
  if (count >= kLanes) return store(p, v);
  for (int i = 0; i < count; ++i) p[i] = v[i];
}

FG_HD void copy(const float* from, float* to, int64_t length) {
  int64_t i = 0;
  for (; i + kLanes <= length; i += kLanes) store(to + i, load(from + i));
  if (i < length) store(to + i, load(from + i, length - i), length - i);
}

// Writes past the caches, for results too large for them. `finish_streaming` orders them before what follows.
FG_HD void stream(float* p, vfloat v, int64_t count) {
#if defined(__AVX2__)
  if (count >= kLanes && reinterpret_cast<uintptr_t>(p) % sizeof v == 0) return _mm256_stream_ps(p, (__m256)v);
#endif
  store(p, v, count);
}
FG_HD void finish_streaming() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}
constexpr int64_t kStreamFrom = 1 << 21;  // elements of a result that is not kept in the caches

// What a line at p reads soon. With a dozen planes at once the hardware foresees too few of them.
FG_HD void fetch_ahead(const float* p) { __builtin_prefetch(p + 128); }

FG_HD vfloat lane_numbers() {
  vfloat v = {};
  for (int i = 0; i < kLanes; ++i) v[i] = float(i);
  return v;
}

FG_HD vfloat select(vint condition, vfloat a, vfloat b) { return condition ? a : b; }
FG_HD vfloat minimum(vfloat a, vfloat b) { return b < a ? b : a; }
FG_HD vfloat maximum(vfloat a, vfloat b) { return b > a ? b : a; }
FG_HD vfloat absolute(vfloat v) { return (vfloat)((vint)v & 0x7fffffff); }
FG_HD vint is_finite(vfloat v) { return ((vint)v & 0x7fffffff) < 0x7f800000; }
FG_HD vfloat to_float(vint v) { return __builtin_convertvector(v, vfloat); }

// Exact for |v| < 2^31.
FG_HD vint floor_to_int(vfloat v) {
  const vint toward_zero = __builtin_convertvector(v, vint);
  return toward_zero + (to_float(toward_zero) > v);
}

FG_HD vfloat rounded_down(vfloat v) { return to_float(floor_to_int(v)); }

FG_HD bool all(vint mask) {
#if defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask) == 0xff;
#else
  bool result = true;
  for (int i = 0; i < kLanes; ++i) result = result && mask[i];
  return result;
#endif
}

FG_HD int32_t least(vint v) {
  int32_t result = v[0];
  for (int i = 1; i < kLanes; ++i) result = v[i] < result ? v[i] : result;
  return result;
}

// Lane i takes element index[i] of the 2 * kLanes floats low, high.
FG_HD vfloat permute(vfloat low, vfloat high, vint index) {
#if defined(__AVX512F__)
  return (vfloat)_mm256_permutex2var_ps((__m256)low, (__m256i)index, (__m256)high);
#elif defined(__AVX2__)
  const __m256 a = _mm256_permutevar8x32_ps((__m256)low, (__m256i)index);
  const __m256 b = _mm256_permutevar8x32_ps((__m256)high, (__m256i)index);
  return select(index < kLanes, (vfloat)a, (vfloat)b);
#else
  vfloat v = {};
  for (int i = 0; i < kLanes; ++i) v[i] = index[i] < kLanes ? low[index[i]] : high[index[i] - kLanes];
  return v;
#endif
}

// p[start + lane], indices clamped to [0, length).
FG_HD vfloat load_clamped(const float* p, int64_t start, int64_t length) {
  if (start >= 0 && start + kLanes <= length) return load(p + start);
  vfloat v = {};
  if (length < kLanes) {
    for (int i = 0; i < kLanes; ++i) v[i] = p[smaller(larger(start + i, 0), length - 1)];
    return v;
  }
  const int64_t base = smaller(larger(start, 0), length - kLanes);
  const vint lane = __builtin_convertvector(lane_numbers(), vint) + int32_t(start - base);
  v = load(p + base);
  return permute(v, v, lane < 0 ? splat(0) : lane >= kLanes ? splat(kLanes - 1) : lane);
}

}  // namespace flowguide::FG_ISA
