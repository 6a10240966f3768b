// What every confidence obeys. F is float, or a vector of floats on the CPU.
#pragma once
#include "image.h"
#ifndef __CUDACC__
#include "simd.h"
#endif

namespace flowguide::FG_ISA {

// [0, 1]; NaN becomes 0.
template <class F>
FG_HD F clamp01(F value) {
  return select(value > F{}, minimum(value, F{} + 1.0f), F{});
}

// 1 on the picture's area (half a pixel beyond the outermost centres still is), 0 outside and for NaN.
template <class F>
FG_HD F inside(F x, F y, int64_t height, int64_t width) {
  const F one = F{} + 1.0f;
  const F across = select(x >= -0.5f, select(x <= float(width) - 0.5f, one, F{}), F{});
  const F down = select(y >= -0.5f, select(y <= float(height) - 0.5f, one, F{}), F{});
  return across * down;
}

}  // namespace flowguide::FG_ISA
