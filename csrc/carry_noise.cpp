// Noise that follows the flow, on the CPU (docs/math.md section 5). Sums run in the order of the pixels: the same bits
// on every run.
#include <cmath>

#include "image.h"
#include "operations.h"
#include "parallel.h"
#include "scratch.h"

namespace flowguide::FG_ISA {
namespace {

thread_local Scratch memory_of_caller;

// The sample that p addresses, or -1.
int64_t source_of(const CarryNoiseArguments& a, int64_t n, int64_t y, int64_t x) {
  const float* flow = a.flow + n * 2 * a.height * a.width + y * a.width + x;
  const float column = floorf(float(x) + flow[0] + 0.5f), row = floorf(float(y) + flow[a.height * a.width] + 0.5f);
  const bool here = column >= 0.0f && column < float(a.width) && row >= 0.0f && row < float(a.height);
  return here ? int64_t(row) * a.width + int64_t(column) : -1;
}

void carry_line(const CarryNoiseArguments& a, int64_t channel, int64_t y, const int32_t* source, const float* targets,
                const float* sums) {
  const int64_t plane = a.height * a.width, n = channel / a.channels;
  for (int64_t x = 0; x < a.width; ++x) {
    const int64_t p = y * a.width + x, at = channel * plane + p;
    const int32_t from = source[n * plane + p];
    const float z = a.fresh[at];
    float value = z;
    if (from >= 0) {
      const float k = targets[n * plane + from], v = a.noise[channel * plane + from];
      value = k > 1.0f ? v / std::sqrt(k) + (z - sums[channel * plane + from] / k) : v;
    }
    a.carried[at] = value;
  }
}

void sum_cells(const CarryNoiseArguments& a, int64_t channel, int64_t cell_row) {
  const int64_t across = a.width / a.cell;
  for (int64_t i = 0; i < across; ++i) {
    float sum = 0.0f;
    for (int64_t y = cell_row * a.cell; y < (cell_row + 1) * a.cell; ++y) {
      const float* line = a.carried + (channel * a.height + y) * a.width + i * a.cell;
      for (int64_t x = 0; x < a.cell; ++x) sum += line[x];
    }
    a.latent[(channel * (a.height / a.cell) + cell_row) * across + i] = sum / float(a.cell);
  }
}

}  // namespace

void carry_noise(const CarryNoiseArguments& a, int threads) {
  const int64_t plane = a.height * a.width, channels = a.rows * a.channels;
  float* memory = memory_of_caller.floats((2 * a.rows + channels) * plane);
  int32_t* source = reinterpret_cast<int32_t*>(memory);  // flowguide/native.py refuses planes beyond int32
  float *targets = memory + a.rows * plane, *sums = targets + a.rows * plane;
  parallel_for(a.rows * a.height, threads, [&](int64_t line) {
    const int64_t n = line / a.height, y = line % a.height;
    for (int64_t x = 0; x < a.width; ++x) {
      source[line * a.width + x] = int32_t(source_of(a, n, y, x));
      targets[line * a.width + x] = 0.0f;
    }
  });
  parallel_for(a.rows, threads, [&](int64_t n) {
    for (int64_t p = n * plane; p < (n + 1) * plane; ++p) {
      if (source[p] >= 0) targets[n * plane + source[p]] += 1.0f;
    }
  });
  parallel_for(channels, threads, [&](int64_t channel) {
    float* sum = sums + channel * plane;
    const int32_t* from = source + channel / a.channels * plane;
    for (int64_t p = 0; p < plane; ++p) sum[p] = 0.0f;
    for (int64_t p = 0; p < plane; ++p) {
      if (from[p] >= 0) sum[from[p]] += a.fresh[channel * plane + p];
    }
  });
  parallel_for(channels * a.height, threads, [&](int64_t line) {
    carry_line(a, line / a.height, line % a.height, source, targets, sums);
  });
  const int64_t cell_rows = a.height / a.cell;
  parallel_for(channels * cell_rows, threads, [&](int64_t i) { sum_cells(a, i / cell_rows, i % cell_rows); });
}

}  // namespace flowguide::FG_ISA
