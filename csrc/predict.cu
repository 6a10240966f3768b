// Warp, confidence and pooling in one launch: one warp of 32 threads a cell.
#include "launch.cuh"
#include "predict.h"
#include "sample.h"

namespace flowguide {
namespace FG_ISA {

constexpr int kWarp = 32;

__device__ float boundary_confidence(const PredictArguments& a, const float* flow, int64_t x, int64_t y) {
  const int64_t plane = a.height * a.width, row = y * a.width;
  const int64_t left = row + larger(x - 1, 0), right = row + smaller(x + 1, a.width - 1);
  const int64_t above = larger(y - 1, 0) * a.width + x, below = smaller(y + 1, a.height - 1) * a.width + x;
  const float* v = flow + plane;
  return smoothness(flow[row + x], v[row + x], flow[right] - flow[left], v[right] - v[left], flow[below] - flow[above],
                    v[below] - v[above], a);
}

__device__ float source_similarity(const PredictArguments& a, const Footprint<2>& at, int64_t n, int64_t pixel) {
  const int64_t plane = a.height * a.width;
  float difference = 0.0f;
  for (int64_t c = n * a.source_channels; c < (n + 1) * a.source_channels; ++c) {
    difference += fabsf(a.source_at[c * plane + pixel] - at.sample(a.source_to + c * plane));
  }
  return similarity(difference / float(a.source_channels), a);
}

// Writes prior and confidence of one pixel and returns the confidence.
template <int TAPS>
__device__ float predict_pixel(const PredictArguments& a, int64_t n, int64_t x, int64_t y, float u, float v) {
  const int64_t plane = a.height * a.width, pixel = y * a.width + x;
  const float to_x = float(x) + u, to_y = float(y) + v;
  Footprint<TAPS> target;
  target.place(to_x, to_y, a.height, a.width, kEdge);
  for (int64_t c = n * a.channels; c < (n + 1) * a.channels; ++c) {
    a.prior[c * plane + pixel] = target.sample(a.reference + c * plane);
  }
  Footprint<2> linear;
  linear.place(to_x, to_y, a.height, a.width, kEdge);
  float confidence = inside(to_x, to_y, a.height, a.width);
  if (a.given_confidence) {
    confidence *= clamp01(a.given_confidence[n * plane + pixel]);
  } else {
    const float* back = a.flow_back + n * 2 * plane;
    confidence *= consistency(u, v, linear.sample(back), linear.sample(back + plane), a);
    if (a.boundary) confidence *= boundary_confidence(a, a.flow + n * 2 * plane, x, y);
  }
  if (a.photometric > 0.0f) confidence *= source_similarity(a, linear, n, pixel);
  a.confidence[n * plane + pixel] = confidence;
  return confidence;
}

__device__ float countable(float component) {
  return is_finite(component) ? minimum(maximum(component, -kFarthest), kFarthest) : 0.0f;
}

template <int TAPS>
__global__ void predict_kernel(PredictArguments a) {
  const int64_t across = (a.width + a.cell - 1) / a.cell, down = (a.height + a.cell - 1) / a.cell;
  const int64_t cell = thread_index() / kWarp, lane = threadIdx.x % kWarp;
  if (cell >= a.rows * down * across) return;
  const int64_t n = cell / (down * across), at = cell % (down * across), plane = a.height * a.width;
  const int64_t first_x = at % across * a.cell, first_y = at / across * a.cell;
  const int64_t width = smaller(a.cell, a.width - first_x), height = smaller(a.cell, a.height - first_y);
  float sum_u = 0.0f, sum_v = 0.0f, least = 1.0f;
  for (int64_t i = lane; i < width * height; i += kWarp) {
    const int64_t x = first_x + i % width, y = first_y + i / width;
    const float* flow = a.flow + n * 2 * plane + y * a.width + x;
    const float u = flow[0], v = flow[plane];
    least = minimum(least, predict_pixel<TAPS>(a, n, x, y, u, v));
    sum_u += countable(u);
    sum_v += countable(v);
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    sum_u += __shfl_down_sync(0xffffffffu, sum_u, step);
    sum_v += __shfl_down_sync(0xffffffffu, sum_v, step);
    least = minimum(least, __shfl_down_sync(0xffffffffu, least, step));
  }
  if (lane) return;
  const float share = 1.0f / float(width * height * a.cell);
  a.flow_latent[n * 2 * down * across + at] = sum_u * share;
  a.flow_latent[(n * 2 + 1) * down * across + at] = sum_v * share;
  a.confidence_latent[cell] = least;
}

}  // namespace FG_ISA

const char* predict_cuda(const PredictArguments& a, void* stream) {
  const int64_t cells = a.rows * ((a.height + a.cell - 1) / a.cell) * ((a.width + a.cell - 1) / a.cell);
  const auto kernel = a.taps == 2   ? FG_ISA::predict_kernel<2>
                      : a.taps == 4 ? FG_ISA::predict_kernel<4>
                                    : FG_ISA::predict_kernel<6>;
  const unsigned blocks = FG_ISA::blocks_for(cells * FG_ISA::kWarp);
  kernel<<<blocks, FG_ISA::kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
  return FG_ISA::launch_error();
}

}  // namespace flowguide
