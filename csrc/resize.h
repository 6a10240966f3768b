// One axis of a resize: which source elements make an output element, and with what weight. CPU only.
#pragma once
#include "scratch.h"

namespace flowguide::FG_ISA {

// A triangle as wide as the scale when shrinking, linear interpolation when growing (resize_matrix of the reference).
struct Axis {
  int64_t taps;
  const float* first;   // [to], whole numbers
  const float* weight;  // [to, taps], each row sums to 1

  static int64_t taps_for(int64_t length, int64_t to) {
    return smaller(length, 2 * larger((length + to - 1) / to, 1) + 1);
  }

  static int64_t floats_for(int64_t length, int64_t to) { return to * (1 + taps_for(length, to)); }

  static Axis make(int64_t length, int64_t to, float* memory) {
    const int64_t taps = taps_for(length, to);
    const double scale = double(length) / double(to), support = scale > 1.0 ? scale : 1.0;
    float* weight = memory + to;
    for (int64_t i = 0; i < to; ++i) {
      const double centre = (double(i) + 0.5) * scale - 0.5;
      const int64_t first = smaller(larger(int64_t(std::floor(centre - support)) + 1, 0), length - taps);
      double sum = 0.0;
      for (int pass = 0; pass < 2; ++pass) {
        for (int64_t k = 0; k < taps; ++k) {
          const double w = 1.0 - std::fabs(double(first + k) - centre) / support;
          if (pass == 0) sum += w > 0.0 ? w : 0.0;
          if (pass == 1) weight[i * taps + k] = float((w > 0.0 ? w : 0.0) / sum);
        }
      }
      memory[i] = float(first);
    }
    return {taps, memory, weight};
  }
};

inline void resize_across(const Axis& axis, const float* line, float* out, int64_t to) {
  for (int64_t x = 0; x < to; ++x) {
    const float *from = line + int64_t(axis.first[x]), *weight = axis.weight + x * axis.taps;
    float sum = 0.0f;
    for (int64_t k = 0; k < axis.taps; ++k) sum += weight[k] * from[k];
    out[x] = sum;
  }
}

inline void resize_down(const Axis& axis, const float* plane, int64_t y, float* out, int64_t width) {
  const float *from = plane + int64_t(axis.first[y]) * width, *weight = axis.weight + y * axis.taps;
  for (int64_t x = 0; x < width; ++x) out[x] = weight[0] * from[x];
  for (int64_t k = 1; k < axis.taps; ++k) {
    for (int64_t x = 0; x < width; ++x) out[x] += weight[k] * from[k * width + x];
  }
}

}  // namespace flowguide::FG_ISA
