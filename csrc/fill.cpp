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

float known(float value, float weight) { return weight > 0.0f ? value : 0.0f; }

// Mass and weighted sum of 2 columns of one or two lines; a missing second column counts nothing.
struct Pair {
  float mass, sum;
  void add(const float* value, const float* weight, int64_t x, int64_t width) {
    for (int64_t i = x; i < smaller(x + 2, width); ++i) {
      const float w = clamp01(weight[i]);
      mass += w;
      sum += w * known(value[i], w);
    }
  }
};

void pull_line(const FillArguments& a, const Level& fine, const Level& coarse, float* weight, int64_t n, int64_t y) {
  for (int64_t c = 0; c < a.channels; ++c) {
    for (int64_t x = 0; x < coarse.width; ++x) {
      Pair pair = {0.0f, 0.0f};
      for (int64_t line = 2 * y; line < smaller(2 * y + 2, fine.height); ++line) {
        pair.add(fine.value + ((n * a.channels + c) * fine.height + line) * fine.width,
                 fine.weight + (n * fine.height + line) * fine.width, 2 * x, fine.width);
      }
      coarse.filled[((n * a.channels + c) * coarse.height + y) * coarse.width + x] =
          pair.mass > 0.0f ? pair.sum / pair.mass : 0.0f;
      if (c == 0) weight[(n * coarse.height + y) * coarse.width + x] = minimum(pair.mass, 1.0f);
    }
  }
}

// The near coarse line (or column) of fine line i has 3/4, the far one 1/4.
int64_t near_of(int64_t i) { return i / 2; }
int64_t far_of(int64_t i, int64_t length) { return smaller(larger(i / 2 + (i % 2 ? 1 : -1), 0), length - 1); }

void push_line(const FillArguments& a, const Level& coarse, const Level& fine, int64_t n, int64_t y) {
  float* line = line_of_thread.floats(coarse.width);
  const float* weight = fine.weight + (n * fine.height + y) * fine.width;
  for (int64_t c = 0; c < a.channels; ++c) {
    const float* plane = coarse.filled + (n * a.channels + c) * coarse.height * coarse.width;
    const float* nearer = plane + near_of(y) * coarse.width;
    const float* farther = plane + far_of(y, coarse.height) * coarse.width;
    for (int64_t x = 0; x < coarse.width; ++x) line[x] = 0.75f * nearer[x] + 0.25f * farther[x];
    const int64_t here = ((n * a.channels + c) * fine.height + y) * fine.width;
    for (int64_t x = 0; x < fine.width; ++x) {
      const float up = 0.75f * line[near_of(x)] + 0.25f * line[far_of(x, coarse.width)];
      const float w = clamp01(weight[x]);
      fine.filled[here + x] = w * known(fine.value[here + x], w) + (1.0f - w) * up;
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
