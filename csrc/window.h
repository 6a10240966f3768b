// Minima and sums over windows of 2 radius + 1 pixels along one axis. CPU only.
#pragma once
#include "confidence.h"
#include "scratch.h"

namespace flowguide::FG_ISA {

// out[x] = sum or minimum of padded[x .. x + 2 radius]; padded[radius] stands under x = 0.
template <bool SUM>
void slide(const float* padded, float* out, int64_t width, int64_t radius) {
  for (int64_t x = 0; x < width; ++x) out[x] = padded[x];
  for (int64_t k = 1; k <= 2 * radius; ++k) {
    for (int64_t x = 0; x < width; ++x) out[x] = SUM ? out[x] + padded[x + k] : minimum(out[x], padded[x + k]);
  }
}

// A line of `width` between `radius` pads on both sides, filled by value(x).
template <class Value>
float* padded_line(Scratch& scratch, int64_t width, int64_t radius, float pad, const Value& value) {
  float* line = scratch.floats(width + 2 * radius);
  for (int64_t i = 0; i < radius; ++i) line[i] = line[radius + width + i] = pad;
  for (int64_t x = 0; x < width; ++x) line[radius + x] = value(x);
  return line;
}

inline vfloat sum_down(const float* plane, int64_t y, int64_t x, int64_t radius, int64_t height, int64_t width) {
  vfloat total = {};
  for (int64_t i = larger(y - radius, 0); i <= smaller(y + radius, height - 1); ++i) {
    total += load(plane + i * width + x, width - x);
  }
  return total;
}

// How many pixels of the window around (x, y) are there.
inline vfloat window(int64_t y, int64_t x, int64_t radius, int64_t height, int64_t width) {
  const vfloat column = lane_numbers() + float(x);
  const vfloat last = minimum(column + float(radius), splat(float(width - 1)));
  const vfloat across = last - maximum(column - float(radius), vfloat{}) + 1.0f;
  return across * float(smaller(y + radius, height - 1) - larger(y - radius, 0) + 1);
}

}  // namespace flowguide::FG_ISA
