// out(p) = image(p + flow(p)) on the CPU.
#include "operations.h"
#include "parallel.h"
#include "sample_block.h"

namespace flowguide::FG_ISA {
namespace {

template <int TAPS>
void warp_line(const WarpArguments& a, int64_t n, int64_t y) {
  const int64_t plane = a.height * a.width;
  const bool large = a.rows * a.channels * plane >= kStreamFrom;
  const float* u = a.flow + n * 2 * plane + y * a.width;
  const float* image = a.image + n * a.channels * plane;
  float* out = a.out + n * a.channels * plane + y * a.width;
  Block<TAPS> block = {};
  for (int64_t x = 0; x < a.width; x += kLanes) {
    const int64_t count = a.width - x;
    const vfloat at_x = lane_numbers() + float(x) + load(u + x, count);
    block.place(at_x, float(y) + load(u + plane + x, count), a.height, a.width, a.border);
    for (int64_t c = 0; c < a.channels; ++c) {
      const vfloat value = block.sample(image + c * plane);
      large ? stream(out + c * plane + x, value, count) : store(out + c * plane + x, value, count);
    }
  }
  if (large) finish_streaming();
}

}  // namespace

void warp(const WarpArguments& a, int threads) {
  parallel_for(a.rows * a.height, threads, [&](int64_t line) {
    const auto one = a.taps == 2 ? warp_line<2> : a.taps == 4 ? warp_line<4> : warp_line<6>;
    one(a, line / a.height, line % a.height);
  });
}

}  // namespace flowguide::FG_ISA
