// One element of a guided sampler step (docs/math.md sections 1 and 2). F is float, or a vector of floats on the CPU.
#pragma once
#include "confidence.h"

namespace flowguide::FG_ISA {

// One row of the coefficients, the columns of StepRow in flowguide/reference.py.
struct Step {
  float p, q, a, b, c, d, share, guidance_scale, clip;
};

template <class F>
FG_HD F predicted_x0(F x, F m, const Step& s) {
  const F x0 = s.p * x + s.q * m;
  return s.clip > 0.0f ? minimum(maximum(x0, F{} - s.clip), F{} + s.clip) : x0;
}

// Nothing of k0 where w is 0, not even NaN.
template <class F>
FG_HD F guided_x0(F x0, F k0, F w) {
  return select(w > 0.0f, x0 + w * (k0 - x0), x0);
}

}  // namespace flowguide::FG_ISA
