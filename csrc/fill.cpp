// Push-pull on the CPU: a pyramid of weighted means down, the coarser level into the holes on the way up.
#include "confidence.h"
#include "operations.h"
#include "parallel.h"
#include "scratch.h"

namespace flowguide::FG_ISA {
namespace {

thread_local Scratch pyramid_of_caller, line_of_thread;

struct Level {
  const float *value, *weight;  // [rows, channels, height, width], [rows, height, width]
  float* filled;                // where the result goes; may be `value`
  int64_t height, width;
};

FG_HD float known(float value, float weight) { return weight > 0.0f ? value : 0.0f; }

// Coarse line y: sums over two fine lines first, then over pairs of columns; what is not there has weight 0.
void pull_line(const FillArguments& a, const Level& fine, const Level& coarse, float* weight, int64_t n, int64_t y) {
  const int64_t even = 2 * coarse.width;
  float *mass = line_of_thread.floats(3 * even), *sum = mass + even, *pair_mass = sum + even;
  const bool two = 2 * y + 1 < fine.height;
  const float *upper = fine.weight + (n * fine.height + 2 * y) * fine.width, *lower = upper + fine.width * two;
  mass[even - 1] = sum[even - 1] = 0.0f;
  for (int64_t x = 0; x < fine.width; ++x) mass[x] = clamp01(upper[x]) + (two ? clamp01(lower[x]) : 0.0f);
  for (int64_t x = 0; x < coarse.width; ++x) {
    pair_mass[x] = mass[2 * x] + mass[2 * x + 1];
    weight[(n * coarse.height + y) * coarse.width + x] = minimum(pair_mass[x], 1.0f);
  }
  for (int64_t c = n * a.channels; c < (n + 1) * a.channels; ++c) {
    const float *first = fine.value + (c * fine.height + 2 * y) * fine.width, *second = first + fine.width * two;
    float* out = coarse.filled + (c * coarse.height + y) * coarse.width;
    for (int64_t x = 0; x < fine.width; ++x) {
      const float above = clamp01(upper[x]), below = two ? clamp01(lower[x]) : 0.0f;
      sum[x] = above * known(first[x], above) + below * known(second[x], below);
    }
    for (int64_t x = 0; x < coarse.width; ++x) {
      const float total = sum[2 * x] + sum[2 * x + 1];
      out[x] = pair_mass[x] > 0.0f ? total / pair_mass[x] : 0.0f;
    }
  }
}

// Fine line y: the near coarse line (and column) has 3/4, the far one 1/4, the border repeated.
void push_line(const FillArguments& a, const Level& coarse, const Level& fine, int64_t n, int64_t y) {
  const int64_t last = coarse.width - 1;
  const int64_t farther_line = smaller(larger(y / 2 + (y % 2 ? 1 : -1), 0), coarse.height - 1);
  float *line = line_of_thread.floats(3 * coarse.width), *up = line + coarse.width;
  const float* weight = fine.weight + (n * fine.height + y) * fine.width;
  for (int64_t c = n * a.channels; c < (n + 1) * a.channels; ++c) {
    const float* nearer = coarse.filled + (c * coarse.height + y / 2) * coarse.width;
    const float* farther = coarse.filled + (c * coarse.height + farther_line) * coarse.width;
    for (int64_t x = 0; x <= last; ++x) line[x] = 0.75f * nearer[x] + 0.25f * farther[x];
    up[0] = line[0];
    up[2 * last + 1] = line[last];
    for (int64_t x = 0; x < last; ++x) {
      up[2 * x + 1] = 0.75f * line[x] + 0.25f * line[x + 1];
      up[2 * x + 2] = 0.75f * line[x + 1] + 0.25f * line[x];
    }
    const int64_t here = (c * fine.height + y) * fine.width;
    for (int64_t x = 0; x < fine.width; ++x) {
      const float w = clamp01(weight[x]);
      fine.filled[here + x] = w * known(fine.value[here + x], w) + (1.0f - w) * up[x];
    }
  }
}

}  // namespace

void fill(const FillArguments& a, int threads) {
  constexpr int kMostLevels = 48;
  Level levels[kMostLevels] = {{a.prior, a.confidence, a.out, a.height, a.width}};
  float* weights[kMostLevels] = {};
  int64_t needed = 0;
  int count = 1;
  for (int64_t h = a.height, w = a.width; h > 1 || w > 1; ++count) {
    h = (h + 1) / 2;
    w = (w + 1) / 2;
    levels[count] = {nullptr, nullptr, nullptr, h, w};
    needed += a.rows * (a.channels + 1) * h * w;
  }
  float* memory = pyramid_of_caller.floats(needed);
  for (int l = 1; l < count; ++l) {
    Level& level = levels[l];
    level.value = level.filled = memory;
    level.weight = weights[l] = memory + a.rows * a.channels * level.height * level.width;
    memory = weights[l] + a.rows * level.height * level.width;
    parallel_for(a.rows * level.height, level.height > 32 ? threads : 1, [&](int64_t line) {
      pull_line(a, levels[l - 1], level, weights[l], line / level.height, line % level.height);
    });
  }
  if (count == 1) {
    for (int64_t i = 0; i < a.rows * a.channels; ++i) {
      a.out[i] = known(a.prior[i], clamp01(a.confidence[i / a.channels]));
    }
  }
  for (int l = count - 1; l > 0; --l) {
    const Level& fine = levels[l - 1];
    parallel_for(a.rows * fine.height, fine.height > 32 ? threads : 1,
                 [&](int64_t line) { push_line(a, levels[l], fine, line / fine.height, line % fine.height); });
  }
}

}  // namespace flowguide::FG_ISA
