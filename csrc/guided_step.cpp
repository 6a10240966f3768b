// CFG, x0, clip, erosion of the weight, guidance and the sampler's step in one pass over memory, on the CPU.
#include "guided_step.h"

#include "half.h"
#include "operations.h"
#include "parallel.h"
#include "scratch.h"

namespace flowguide::FG_ISA {
namespace {

thread_local Scratch weights_of_thread;

constexpr int64_t kWorthThreads = 1 << 16;  // elements; below it waking a thread costs more than it saves

// share * weight along line y, or share * its minimum over 3 x 3 cells, the border repeated.
void guidance_line(const GuidedStepArguments& a, float share, int64_t n, int64_t y, float* out) {
  const float* plane = a.weight + n * a.height * a.width;
  if (!a.erode) {
    for (int64_t x = 0; x < a.width; ++x) out[x] = share * clamp01(plane[y * a.width + x]);
    return;
  }
  const float* here = plane + y * a.width;
  const float *above = y > 0 ? here - a.width : here, *below = y + 1 < a.height ? here + a.width : here;
  float* least = out + a.width + kLanes;
  for (int64_t x = 0; x < a.width; ++x) {
    least[x] = minimum(clamp01(here[x]), minimum(clamp01(above[x]), clamp01(below[x])));
  }
  for (int64_t x = 0; x < a.width; x += kLanes) {
    const vfloat across = minimum(load_clamped(least, x - 1, a.width), load_clamped(least, x + 1, a.width));
    store(out + x, share * minimum(load_clamped(least, x, a.width), across));
  }
}

template <class T>
void step_line(const GuidedStepArguments& a, int64_t n, int64_t y) {
  const Step& step = reinterpret_cast<const Step*>(a.coefficients)[n];
  const auto read = [](const void* tensor, int64_t at, int64_t count) {
    return load(static_cast<const T*>(tensor) + at, count);
  };
  const bool history = a.x0_prev && step.c != 0.0f, noisy = a.noise && step.d != 0.0f;
  float* weights = weights_of_thread.floats(2 * (a.width + kLanes));
  if (a.weight) guidance_line(a, step.share, n, y, weights);
  for (int64_t channel = n * a.channels; channel < (n + 1) * a.channels; ++channel) {
    for (int64_t x = 0; x < a.width; x += kLanes) {
      const int64_t at = (channel * a.height + y) * a.width + x, count = a.width - x;
      const vfloat here = read(a.x, at, count);
      vfloat m = read(a.model_output, at, count);
      if (a.model_output_uncond) {
        const vfloat uncond = read(a.model_output_uncond, at, count);
        m = uncond + step.guidance_scale * (m - uncond);
      }
      vfloat x0 = predicted_x0(here, m, step);
      if (a.weight) x0 = guided_x0(x0, read(a.k0, at, count), load(weights + x));
      vfloat next = step.a * here + step.b * x0;
      if (history) next += step.c * read(a.x0_prev, at, count);
      if (noisy) next += step.d * read(a.noise, at, count);
      store(static_cast<T*>(a.x_next) + at, next, count);
      store(static_cast<T*>(a.x0) + at, x0, count);
    }
  }
}

}  // namespace

void guided_step(const GuidedStepArguments& a, int threads) {
  const auto half = a.storage == kFloat16 ? step_line<Half> : step_line<BFloat>;
  const auto line = a.storage == kFloat32 ? step_line<float> : half;
  const bool large = a.rows * a.channels * a.height * a.width >= kWorthThreads;
  parallel_for(a.rows * a.height, large ? threads : 1, [&](int64_t i) { line(a, i / a.height, i % a.height); });
}

}  // namespace flowguide::FG_ISA
