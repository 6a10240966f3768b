// Confidence of one flow vector (docs/math.md section 4). F is float, or a vector of floats on the CPU.
#pragma once
#include "confidence.h"
#include "operations.h"

namespace flowguide::FG_ISA {

template <class F>
FG_HD F consistency(F u, F v, F back_u, F back_v, const PredictArguments& a) {
  const F error_u = u + back_u, error_v = v + back_v;
  const F error = error_u * error_u + error_v * error_v;
  const F threshold = a.relative * (u * u + v * v + back_u * back_u + back_v * back_v) + a.allowed_px2;
  return clamp01((threshold - error) / (a.softness * threshold));
}

// Differences are of the two neighbours, so twice the gradient.
template <class F>
FG_HD F smoothness(F u, F v, F du_dx, F dv_dx, F du_dy, F dv_dy, const PredictArguments& a) {
  const F gradient = 0.25f * (du_dx * du_dx + dv_dx * dv_dx + du_dy * du_dy + dv_dy * dv_dy);
  return clamp01(2.0f - gradient / (a.boundary_relative * (u * u + v * v) + a.boundary_absolute));
}

template <class F>
FG_HD F similarity(F difference, const PredictArguments& a) {
  const F ratio = difference / a.photometric;
  return clamp01(1.0f / (1.0f + ratio * ratio * (ratio * ratio)));
}

}  // namespace flowguide::FG_ISA
