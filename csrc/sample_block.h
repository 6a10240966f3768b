// Sampling kLanes neighbouring positions at once. Neighbours of a smooth flow lie in a patch two registers wide and no
// more than a few rows higher than the taps: there whole registers are loaded and permuted. Elsewhere each position is
// sampled by itself.
#pragma once
#include <cmath>

#include "sample.h"
#include "simd.h"

namespace flowguide::FG_ISA {

constexpr int kSpan = 3;   // rows by which a patch may exceed the taps
constexpr int kAhead = 4;  // lines from the patch to what is prefetched: where rows jump, the hardware foresees nothing

template <int TAPS>
struct Block {
  vfloat weight_y[TAPS], weight_x[TAPS];
  vint known, offset, below;  // column and row of a lane's first tap in the patch
  int64_t patch, width;       // first element of the patch
  int64_t ahead;              // from there, elements to the line that is prefetched
  int32_t rows;               // of the patch
  Footprint<TAPS> scattered[kLanes];
  bool local, all_known, none_known;

  FG_HD void place(vfloat wanted_x, vfloat wanted_y, int64_t height, int64_t image_width, int border) {
    width = image_width;
    known = is_finite(wanted_x) & is_finite(wanted_y);
    all_known = all(known);
    none_known = all(~known);
    if (none_known) return;
    if (!all_known) {  // an unknown lane goes where a known one does, so that it does not tear the patch apart
      int lane = 0;
      while (!known[lane]) ++lane;
      wanted_x = select(known, wanted_x, splat(wanted_x[lane]));
      wanted_y = select(known, wanted_y, splat(wanted_y[lane]));
    }
    vfloat x = minimum(maximum(wanted_x, splat(-kFarthest)), splat(kFarthest));
    vfloat y = minimum(maximum(wanted_y, splat(-kFarthest)), splat(kFarthest));
    vint left = floor_to_int(x), top = floor_to_int(y);
    if (TAPS == 2 && border == kEdge) {  // as Footprint::place
      x = minimum(maximum(x, vfloat{}), splat(float(width - 1)));
      y = minimum(maximum(y, vfloat{}), splat(float(height - 1)));
      left = floor_to_int(minimum(x, splat(float(larger(width - 2, 0)))));
      top = floor_to_int(minimum(y, splat(float(larger(height - 2, 0)))));
    }
    tap_weights<TAPS>(x - to_float(left), weight_x);
    tap_weights<TAPS>(y - to_float(top), weight_y);
    left += 1 - TAPS / 2;
    top += 1 - TAPS / 2;
    local = find_patch(left, top, height);
    if (local) return;
    for (int i = 0; i < kLanes; ++i) scattered[i].place(wanted_x[i], wanted_y[i], height, width, border);
  }

  FG_HD bool find_patch(vint left, vint top, int64_t height) {
    constexpr int kReach = 2 * kLanes;
    if (width < kReach || width > INT32_MAX || height > INT32_MAX) return false;
    const int32_t column0 = int32_t(smaller(larger(left[0] - kLanes / 4, 0), width - kReach));
    offset = left - column0;
    if (!all((offset >= 0) & (offset <= kReach - TAPS))) return false;
    int32_t row0 = top[0];
    below = top - row0;
    rows = TAPS;
    if (!all(below == 0)) {
      row0 = least(top);
      below = top - row0;
      rows = TAPS + 1;
      while (rows < TAPS + kSpan && !all(below <= rows - TAPS)) ++rows;
      if (!all(below <= rows - TAPS)) return false;
    }
    patch = int64_t(row0) * width + column0;
    ahead = (smaller(row0 + rows + kAhead, height - 1) - row0) * width;
    return row0 >= 0 && row0 + rows <= height;
  }

  FG_HD vfloat line(const float* p) const {
    const vfloat low = load(p), high = load(p + kLanes);
    vfloat total = weight_x[0] * permute(low, high, offset);
    for (int k = 1; k < TAPS; ++k) total += weight_x[k] * permute(low, high, offset + k);
    return total;
  }

  FG_HD vfloat sample_patch(const float* p) const {
    __builtin_prefetch(p + ahead);
    vfloat total = {};
    if (rows == TAPS) {
      for (int r = 0; r < TAPS; ++r) total += weight_y[r] * line(p + r * width);
      return total;
    }
    if (rows == TAPS + 1) {
      vfloat above = line(p);
      for (int r = 0; r < TAPS; ++r) {
        const vfloat under = line(p + (r + 1) * width);
        total += weight_y[r] * select(below == 1, under, above);
        above = under;
      }
      return total;
    }
    vfloat tap[TAPS] = {};
    for (int32_t r = 0; r < rows; ++r) {
      const vfloat here = line(p + r * width);
      for (int k = 0; k < TAPS; ++k) tap[k] = select(below == r - k, here, tap[k]);
    }
    for (int k = 0; k < TAPS; ++k) total += weight_y[k] * tap[k];
    return total;
  }

  FG_HD vfloat sample(const float* plane) const {
    if (none_known) return vfloat{};
    if (local) {
      const vfloat total = sample_patch(plane + patch);
      return all_known ? total : select(known, total, vfloat{});
    }
    vfloat total = {};
    for (int i = 0; i < kLanes; ++i) total[i] = scattered[i].sample(plane);
    return all_known ? total : select(known, total, vfloat{});
  }
};

}  // namespace flowguide::FG_ISA
