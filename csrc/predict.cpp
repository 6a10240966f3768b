// Warp, forward-backward check, motion boundary, photometric check and pooling in one pass over memory, on the CPU.
#include "predict.h"

#include "parallel.h"
#include "sample_block.h"
#include "scratch.h"

namespace flowguide::FG_ISA {
namespace {

thread_local Scratch scratch;

vfloat boundary_confidence(const PredictArguments& a, const float* u, int64_t x, int64_t y, vfloat here_u,
                           vfloat here_v) {
  const int64_t plane = a.height * a.width;
  const float* row = u + y * a.width;
  const float* above = u + larger(y - 1, 0) * a.width;
  const float* below = u + smaller(y + 1, a.height - 1) * a.width;
  vfloat across[2], down[2];
  for (int i = 0; i < 2; ++i) {
    const int64_t component = i * plane;
    fetch_ahead(below + component + x);
    across[i] = load_clamped(row + component, x + 1, a.width) - load_clamped(row + component, x - 1, a.width);
    down[i] = load_clamped(below + component, x, a.width) - load_clamped(above + component, x, a.width);
  }
  return smoothness(here_u, here_v, across[0], across[1], down[0], down[1], a);
}

vfloat source_similarity(const PredictArguments& a, const Block<2>& at, int64_t n, int64_t x, int64_t y) {
  const int64_t plane = a.height * a.width, first = n * a.source_channels * plane;
  vfloat difference = {};
  for (int64_t c = 0; c < a.source_channels; ++c) {
    const float* line = a.source_at + first + c * plane + y * a.width + x;
    fetch_ahead(line);
    const vfloat here = load(line, a.width - x);
    difference += absolute(here - at.sample(a.source_to + first + c * plane));
  }
  return similarity(difference / float(a.source_channels), a);
}

// The sums and minima over the lines of one row of cells.
struct Columns {
  float *u, *v, *least;
};

vfloat countable(vfloat component) {
  const vfloat finite = select(is_finite(component), component, vfloat{});
  return minimum(maximum(finite, splat(-kFarthest)), splat(kFarthest));
}

template <int TAPS>
void predict_line(const PredictArguments& a, int64_t n, int64_t y, const Columns& columns) {
  const int64_t plane = a.height * a.width, here = y * a.width;
  const float* flow = a.flow + n * 2 * plane;
  const float* back = a.flow_back ? a.flow_back + n * 2 * plane : nullptr;
  const bool large = a.rows * a.channels * plane >= kStreamFrom;
  Block<TAPS> target = {};
  Block<2> linear = {};
  for (int64_t x = 0; x < a.width; x += kLanes) {
    const int64_t count = a.width - x;
    const vfloat u = load(flow + here + x, count), v = load(flow + plane + here + x, count);
    const vfloat to_x = lane_numbers() + float(x) + u, to_y = float(y) + v;
    target.place(to_x, to_y, a.height, a.width, kEdge);
    for (int64_t c = 0; c < a.channels; ++c) {
      const int64_t channel = (n * a.channels + c) * plane;
      const vfloat value = target.sample(a.reference + channel);
      large ? stream(a.prior + channel + here + x, value, count) : store(a.prior + channel + here + x, value, count);
    }
    vfloat confidence = inside(to_x, to_y, a.height, a.width);
    if (!a.given_confidence || a.photometric > 0.0f) linear.place(to_x, to_y, a.height, a.width, kEdge);
    if (a.given_confidence) {
      confidence *= clamp01(load(a.given_confidence + n * plane + here + x, count));
    } else {
      confidence *= consistency(u, v, linear.sample(back), linear.sample(back + plane), a);
      if (a.boundary) confidence *= boundary_confidence(a, flow, x, y, u, v);
    }
    if (a.photometric > 0.0f) confidence *= source_similarity(a, linear, n, x, y);
    store(a.confidence + n * plane + here + x, confidence, count);
    store(columns.u + x, load(columns.u + x) + countable(u));
    store(columns.v + x, load(columns.v + x) + countable(v));
    store(columns.least + x, minimum(load(columns.least + x), confidence));
  }
  if (large) finish_streaming();
}

void pool(const PredictArguments& a, int64_t n, int64_t cell_row, int64_t lines, const Columns& columns) {
  const int64_t across = (a.width + a.cell - 1) / a.cell, down = (a.height + a.cell - 1) / a.cell;
  for (int64_t i = 0; i < across; ++i) {
    const int64_t first = i * a.cell, last = smaller(first + a.cell, a.width);
    float u = 0.0f, v = 0.0f, least = 1.0f;
    for (int64_t x = first; x < last; ++x) {
      u += columns.u[x];
      v += columns.v[x];
      least = minimum(least, columns.least[x]);
    }
    const float share = 1.0f / float(lines * (last - first) * a.cell);
    float* flow = a.flow_latent + n * 2 * down * across + cell_row * across + i;
    flow[0] = u * share;
    flow[down * across] = v * share;
    a.confidence_latent[(n * down + cell_row) * across + i] = least;
  }
}

}  // namespace

void predict(const PredictArguments& a, int threads) {
  const auto one = a.taps == 2 ? predict_line<2> : a.taps == 4 ? predict_line<4> : predict_line<6>;
  const int64_t cell_rows = (a.height + a.cell - 1) / a.cell;
  parallel_for(a.rows * cell_rows, threads, [&](int64_t job) {
    const int64_t n = job / cell_rows, cell_row = job % cell_rows;
    const int64_t first = cell_row * a.cell, last = smaller(first + a.cell, a.height);
    const int64_t padded = (a.width + kLanes - 1) / kLanes * kLanes;
    float* memory = scratch.floats(3 * padded);
    const Columns columns = {memory, memory + padded, memory + 2 * padded};
    for (int64_t x = 0; x < 3 * padded; ++x) memory[x] = x < 2 * padded ? 0.0f : 1.0f;
    for (int64_t y = first; y < last; ++y) one(a, n, y, columns);
    pool(a, n, cell_row, last - first, columns);
  });
}

}  // namespace flowguide::FG_ISA
