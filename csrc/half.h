// Half-precision storage, read and written as vectors of floats; rounding is to nearest even. CPU only.
#pragma once
#include "simd.h"

namespace flowguide::FG_ISA {

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};
typedef uint16_t vshort __attribute__((vector_size(2 * kLanes)));

FG_HD vint load_bits(const void* p, int64_t count) {
  vshort bits = {};
  std::memcpy(&bits, p, sizeof(uint16_t) * size_t(smaller(count, kLanes)));
  return __builtin_convertvector(bits, vint);
}
FG_HD void store_bits(void* p, vint v, int64_t count) {
  const vshort bits = __builtin_convertvector(v, vshort);
  std::memcpy(p, &bits, sizeof(uint16_t) * size_t(smaller(count, kLanes)));
}

FG_HD vfloat load(const BFloat* p, int64_t count) { return (vfloat)(load_bits(p, count) << 16); }

FG_HD void store(BFloat* p, vfloat v, int64_t count) {
  const vint bits = (vint)v;
  const vint rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  store_bits(p, v == v ? rounded : splat(int32_t(0x7fc0)), count);
}

FG_HD vfloat load(const Half* p, int64_t count) {
  const vint bits = load_bits(p, count), magnitude = (bits & 0x7fff) << 13;
  const vint finite = (vint)((vfloat)magnitude * 0x1p112f);  // moves the exponent's bias; denormals included
  const vint special = magnitude | 0x7f800000;
  return (vfloat)((magnitude < 0x0f800000 ? finite : special) | (bits & 0x8000) << 16);
}

FG_HD void store(Half* p, vfloat v, int64_t count) {
  const vint bits = (vint)v, magnitude = bits & 0x7fffffff;
  const vint normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const vint denormal = (vint)((vfloat)magnitude + 0.5f) - 0x3f000000;  // the addition rounds to 2^-24
  const vint special = magnitude > 0x7f800000 ? splat(int32_t(0x7e00)) : splat(int32_t(0x7c00));
  const vint finite = magnitude < 0x38800000 ? denormal : normal;
  store_bits(p, (magnitude < 0x47800000 ? finite : special) | ((bits >> 16) & 0x8000), count);
}

}  // namespace flowguide::FG_ISA
