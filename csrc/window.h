// Minima and sums over windows of 2 radius + 1 pixels along one axis, by doubling: a window of 33 takes seven operations
// a pixel. Sums of ones stay exact, unlike those of a running sum. CPU only.
#pragma once
#include "confidence.h"
#include "scratch.h"

namespace flowguide::FG_ISA {

// In vectors by hand: `other` may be a later part of the same memory, which a compiler takes for a reason not to.
template <bool SUM>
FG_HD void join(const float* first, const float* other, float* into, int64_t length) {
  int64_t i = 0;
  for (; i + kLanes <= length; i += kLanes) {
    const vfloat a = load(first + i), b = load(other + i);
    store(into + i, SUM ? a + b : minimum(a, b));
  }
  for (; i < length; ++i) into[i] = SUM ? first[i] + other[i] : minimum(first[i], other[i]);
}

// out[i] = sum or minimum of padded[i + k step], k from 0 to 2 radius, for i below `length`. Overwrites `padded`, which
// holds length + 2 radius step elements.
template <bool SUM>
void slide(float* padded, float* out, int64_t length, int64_t step, int64_t radius) {
  const int64_t window = 2 * radius + 1, whole = length + 2 * radius * step;
  int64_t size = 1, taken = 0;  // padded[i] covers `size` elements, out[i] the first `taken`
  for (;;) {
    if (SUM && (window & size)) {
      const float* from = padded + taken * step;
      taken ? join<true>(out, from, out, length) : copy(from, out, length);
      taken += size;
    }
    if (2 * size > window) break;
    join<SUM>(padded, padded + size * step, padded, whole - (2 * size - 1) * step);
    size *= 2;
  }
  if (!SUM) join<false>(padded, padded + (window - size) * step, out, length);
}

// A line of `width` between `radius` pads on both sides, filled by the vectors value(x, how many count).
template <class Value>
float* padded_line(Scratch& scratch, int64_t width, int64_t radius, float pad, const Value& value) {
  float* line = scratch.floats(width + 2 * radius);
  for (int64_t i = 0; i < radius; ++i) line[i] = line[radius + width + i] = pad;
  for (int64_t x = 0; x < width; x += kLanes) store(line + radius + x, value(x, width - x), width - x);
  return line;
}

// A part of a plane: lines from y on, columns from x on.
struct Tile {
  int64_t y, x, lines, columns;
};

// Sums or minima down the columns of a tile, `columns` apart in `out`; beyond the plane nothing counts.
template <bool SUM>
void slide_down(Scratch& scratch, const float* plane, const Tile& tile, int64_t radius, int64_t height, int64_t width,
                float* out) {
  float* padded = scratch.floats((tile.lines + 2 * radius) * tile.columns);
  for (int64_t i = 0; i < tile.lines + 2 * radius; ++i) {
    const int64_t y = tile.y - radius + i;
    float* line = padded + i * tile.columns;
    if (y >= 0 && y < height) {
      copy(plane + y * width + tile.x, line, tile.columns);
    } else {
      for (int64_t x = 0; x < tile.columns; ++x) line[x] = SUM ? 0.0f : 1.0f;
    }
  }
  slide<SUM>(padded, out, tile.lines * tile.columns, tile.columns, radius);
}

// How many pixels of the window around (x, y) are there.
inline vfloat window(int64_t y, int64_t x, int64_t radius, int64_t height, int64_t width) {
  const vfloat column = lane_numbers() + float(x);
  const vfloat last = minimum(column + float(radius), splat(float(width - 1)));
  const vfloat across = last - maximum(column - float(radius), vfloat{}) + 1.0f;
  return across * float(smaller(y + radius, height - 1) - larger(y - radius, 0) + 1);
}

}  // namespace flowguide::FG_ISA
