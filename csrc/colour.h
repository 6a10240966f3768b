// Y'CbCr codes and RGB, one pixel (flowguide/reference_colour.py). F is float, or a vector of floats on the CPU.
#pragma once
#include "confidence.h"
#include "operations.h"

namespace flowguide::FG_ISA {

// Codes -> red, green, blue in [-1, 1].
template <class F>
FG_HD void rgb_from_code(F luma, F blue_difference, F red_difference, const Code& code, F* rgb) {
  const F y = (luma / code.unit - code.luma_zero) / code.luma_span;
  const F c_b = (blue_difference / code.unit - code.chroma_zero) / code.chroma_span;
  const F c_r = (red_difference / code.unit - code.chroma_zero) / code.chroma_span;
  const F red = y + 2.0f * (1.0f - code.k_r) * c_r;
  const F blue = y + 2.0f * (1.0f - code.k_b) * c_b;
  const F green = (y - code.k_r * red - code.k_b * blue) / (1.0f - code.k_r - code.k_b);
  rgb[0] = 2.0f * clamp01(red) - 1.0f;
  rgb[1] = 2.0f * clamp01(green) - 1.0f;
  rgb[2] = 2.0f * clamp01(blue) - 1.0f;
}

// [-1, 1] -> [0, 1]; NaN becomes 0.
template <class F>
FG_HD F unit_range(F value) {
  return clamp01((value + 1.0f) / 2.0f);
}

// RGB in [0, 1] -> Y' in [0, 1], and Cb, Cr in [-1/2, 1/2].
template <class F>
FG_HD F luma_of(F red, F green, F blue, const Code& code) {
  return code.k_r * red + (1.0f - code.k_r - code.k_b) * green + code.k_b * blue;
}

// The stored number: rounded to nearest, half upwards, and clamped; NaN becomes 0.
template <class F>
FG_HD F stored(F value, float largest, float unit) {
  const F clamped = select(value > F{}, minimum(value, F{} + largest), F{});
  return rounded_down(clamped + 0.5f) * unit;
}

}  // namespace flowguide::FG_ISA
