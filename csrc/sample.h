// Sampling a plane at a real position: border rules, tap weights, and the plain sampler that CUDA runs.
// F is float, or a vector of floats on the CPU.
#pragma once
#include <cmath>

#include "image.h"
#include "operations.h"

namespace flowguide::FG_ISA {

// Where the plane, continued beyond its border, takes index i from; -1: a zero.
FG_HD int64_t extended(int64_t i, int64_t length, int border) {
  if (i >= 0 && i < length) return i;
  if (border == kEdge) return i < 0 ? 0 : length - 1;
  if (border == kZero) return -1;
  const int64_t period = border == kWrap ? length : larger(2 * (length - 1), 1);
  const int64_t m = i % period + (i % period < 0 ? period : 0);
  return border == kWrap ? m : smaller(m, period - m) * (length > 1);
}

// The pieces of Spline36, by the distance t beyond the nearest, second and third tap on a side; `rest` is 1 - t, a factor
// of all three, so that at 0 and 1 they are 0 and 1 without a rounding error.
template <class F>
FG_HD F spline36_inner(F t, F rest) {
  return rest * ((206.0f / 209.0f - 13.0f / 11.0f * t) * t + 1.0f);
}
template <class F>
FG_HD F spline36_middle(F t, F rest) {
  return rest * t * (6.0f / 11.0f * t - 156.0f / 209.0f);
}
template <class F>
FG_HD F spline36_outer(F t, F rest) {
  return rest * t * (26.0f / 209.0f - 1.0f / 11.0f * t);
}

// Linear weights (2 taps), Catmull-Rom (4 taps) or Spline36 (6 taps) at fraction t.
template <int TAPS, class F>
FG_HD void tap_weights(F t, F* weight) {
  if (TAPS == 2) {
    weight[0] = 1.0f - t;
    weight[1] = t;
  } else if (TAPS == 6) {
    const F s = 1.0f - t;
    weight[0] = spline36_outer(t, s);
    weight[1] = spline36_middle(t, s);
    weight[2] = spline36_inner(t, s);
    weight[TAPS - 3] = spline36_inner(s, t);
    weight[TAPS - 2] = spline36_middle(s, t);
    weight[TAPS - 1] = spline36_outer(s, t);
  } else {
    weight[0] = ((-0.5f * t + 1.0f) * t - 0.5f) * t;
    weight[1] = (1.5f * t - 2.5f) * t * t + 1.0f;
    weight[TAPS - 2] = ((-1.5f * t + 2.0f) * t + 0.5f) * t;
    weight[TAPS - 1] = (0.5f * t - 0.5f) * t * t;
  }
}

// One position: which taps and with what weight. Computed once, applied to every channel.
template <int TAPS>
struct Footprint {
  int64_t row[TAPS], column[TAPS];
  float weight_y[TAPS], weight_x[TAPS];
  bool known;

  FG_HD void place(float x, float y, int64_t height, int64_t width, int border) {
    known = is_finite(x) && is_finite(y);
    x = known ? minimum(maximum(x, -kFarthest), kFarthest) : 0.0f;
    y = known ? minimum(maximum(y, -kFarthest), kFarthest) : 0.0f;
    float left = floorf(x), top = floorf(y);
    if (TAPS == 2 && border == kEdge) {  // the same value, from two pixels of the plane wherever it has two
      x = minimum(maximum(x, 0.0f), float(width - 1));
      y = minimum(maximum(y, 0.0f), float(height - 1));
      left = minimum(floorf(x), float(larger(width - 2, 0)));
      top = minimum(floorf(y), float(larger(height - 2, 0)));
    }
    tap_weights<TAPS>(x - left, weight_x);
    tap_weights<TAPS>(y - top, weight_y);
    for (int k = 0; k < TAPS; ++k) {
      column[k] = extended(int64_t(left) + k + 1 - TAPS / 2, width, border);
      const int64_t r = extended(int64_t(top) + k + 1 - TAPS / 2, height, border);
      row[k] = r < 0 ? -1 : r * width;
    }
  }

  FG_HD float sample(const float* plane) const {
    float total = 0.0f;
    for (int r = 0; r < TAPS; ++r) {
      float line = 0.0f;
      for (int k = 0; k < TAPS; ++k) {
        const bool here = row[r] >= 0 && column[k] >= 0;
        line += weight_x[k] * (here ? plane[row[r] + column[k]] : 0.0f);
      }
      total += weight_y[r] * line;
    }
    return known ? total : 0.0f;
  }
};

}  // namespace flowguide::FG_ISA
