// out(p) = image(p + flow(p)), one thread a pixel.
#include "launch.cuh"
#include "sample.h"

namespace flowguide {
namespace FG_ISA {

template <int TAPS>
__global__ void warp_kernel(WarpArguments a) {
  const int64_t plane = a.height * a.width, index = thread_index();
  if (index >= a.rows * plane) return;
  const int64_t n = index / plane, pixel = index % plane;
  const float* flow = a.flow + n * 2 * plane + pixel;
  Footprint<TAPS> footprint;
  footprint.place(float(pixel % a.width) + flow[0], float(pixel / a.width) + flow[plane], a.height, a.width, a.border);
  for (int64_t c = n * a.channels; c < (n + 1) * a.channels; ++c) {
    a.out[c * plane + pixel] = footprint.sample(a.image + c * plane);
  }
}

}  // namespace FG_ISA

const char* warp_cuda(const WarpArguments& a, void* stream) {
  const auto kernel = a.taps == 2   ? FG_ISA::warp_kernel<2>
                      : a.taps == 4 ? FG_ISA::warp_kernel<4>
                                    : FG_ISA::warp_kernel<6>;
  const unsigned blocks = FG_ISA::blocks_for(a.rows * a.height * a.width);
  kernel<<<blocks, FG_ISA::kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
  return FG_ISA::launch_error();
}

}  // namespace flowguide
