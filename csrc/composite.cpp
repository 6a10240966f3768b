// Several priors become one, on the CPU.
#include "confidence.h"
#include "operations.h"
#include "parallel.h"
#include "scratch.h"

namespace flowguide::FG_ISA {
namespace {

constexpr float kReliable = 0.5f;  // as RELIABLE of reference.py

thread_local Scratch areas_of_caller, order_of_caller;

// The confidence-weighted mean of one block of pixels, and the largest confidence.
void mean_block(const CompositeArguments& a, int64_t n, int64_t at, int64_t count) {
  const int64_t plane = a.height * a.width;
  const float* confidences = a.confidences + n * a.references * plane + at;
  vfloat total = {}, most = {};
  for (int64_t k = 0; k < a.references; ++k) {
    const vfloat weight = clamp01(load(confidences + k * plane, count));
    total += weight;
    most = maximum(most, weight);
  }
  store(a.confidence + n * plane + at, most, count);
  for (int64_t c = 0; c < a.channels; ++c) {
    vfloat sum = {};
    for (int64_t k = 0; k < a.references; ++k) {
      const vfloat weight = clamp01(load(confidences + k * plane, count));
      const float* prior = a.priors + ((n * a.references + k) * a.channels + c) * plane + at;
      fetch_ahead(prior);
      const vfloat value = load(prior, count);
      sum += select(weight > 0.0f, weight * value, vfloat{});
    }
    store(a.prior + (n * a.channels + c) * plane + at, select(total > 0.0f, sum / total, vfloat{}), count);
  }
}

// Each pixel takes the first reference in `order` that is reliable, else the most confident one.
void best_block(const CompositeArguments& a, int64_t n, int64_t at, int64_t count, const float* order) {
  const int64_t plane = a.height * a.width;
  vfloat most = {}, chosen = splat(-1.0f);
  for (int64_t i = 0; i < a.references; ++i) {
    const int64_t k = int64_t(order[i]);
    const vfloat value = clamp01(load(a.confidences + (n * a.references + k) * plane + at, count));
    const vint better = (most < kReliable) & (value > most);
    most = select(better, value, most);
    chosen = select(better, splat(float(k)), chosen);
  }
  store(a.confidence + n * plane + at, most, count);
  for (int64_t c = 0; c < a.channels; ++c) {
    vfloat prior = {};
    for (int64_t k = 0; k < a.references; ++k) {
      const vfloat value = load(a.priors + ((n * a.references + k) * a.channels + c) * plane + at, count);
      prior = select(chosen == float(k), value, prior);
    }
    store(a.prior + (n * a.channels + c) * plane + at, prior, count);
  }
}

// The references of row n by falling reliable area; equal ones keep their order.
void sort_by_area(const CompositeArguments& a, int64_t n, float* areas, float* order) {
  const int64_t plane = a.height * a.width;
  for (int64_t k = 0; k < a.references; ++k) {
    const float* confidence = a.confidences + (n * a.references + k) * plane;
    int64_t area = 0;
    for (int64_t p = 0; p < plane; ++p) area += confidence[p] >= kReliable;
    int64_t place = k;
    for (; place > 0 && areas[place - 1] < float(area); --place) {
      areas[place] = areas[place - 1];
      order[place] = order[place - 1];
    }
    areas[place] = float(area);
    order[place] = float(k);
  }
}

}  // namespace

void composite(const CompositeArguments& a, int threads) {
  float* areas = areas_of_caller.floats(a.rows * a.references);
  float* order = order_of_caller.floats(a.rows * a.references);
  if (a.best) {
    parallel_for(a.rows, threads, [&](int64_t n) {
      sort_by_area(a, n, areas + n * a.references, order + n * a.references);
    });
  }
  parallel_for(a.rows * a.height, threads, [&](int64_t line) {
    const int64_t n = line / a.height, y = line % a.height;
    for (int64_t x = 0; x < a.width; x += kLanes) {
      if (a.best) {
        best_block(a, n, y * a.width + x, a.width - x, order + n * a.references);
      } else {
        mean_block(a, n, y * a.width + x, a.width - x);
      }
    }
  });
}

}  // namespace flowguide::FG_ISA
