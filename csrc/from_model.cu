// Planar RGB in [-1, 1] becomes a surface, one thread an RGB component, or a chroma sample with its luma pixels.
#include "colour.h"
#include "launch.cuh"

namespace flowguide {
namespace FG_ISA {

__global__ void rgb_kernel(FromModelArguments a) {
  const int64_t plane = a.height * a.width, index = thread_index();
  if (index >= a.rows * 3 * plane) return;
  const int64_t pixel = index % plane;
  const int64_t from = (index / plane * a.padded_height + pixel / a.width) * a.padded_width + pixel % a.width;
  static_cast<uint8_t*>(a.surface)[index] = uint8_t(stored((a.image[from] + 1.0f) * 127.5f, 255.0f, 1.0f));
}

template <class T>
__global__ void planes_kernel(FromModelArguments a) {
  const int64_t across = (a.width + 1) / 2, down = (a.height + 1) / 2, index = thread_index();
  if (index >= a.rows * across * down) return;
  const int64_t n = index / (across * down), sample = index % (across * down);
  const int64_t first_y = sample / across * 2, first_x = sample % across * 2;
  const int64_t plane = a.padded_height * a.padded_width;
  float c_b = 0.0f, c_r = 0.0f;
  for (int64_t i = 0; i < 6; ++i) {  // two rows of the columns to the left, here and to the right
    const int64_t y = smaller(first_y + i / 3, a.height - 1);
    const int64_t x = smaller(larger(first_x + i % 3 - 1, 0), a.width - 1);
    const float* from = a.image + n * 3 * plane + y * a.padded_width + x;
    const float red = unit_range(from[0]), green = unit_range(from[plane]), blue = unit_range(from[2 * plane]);
    const float luma = luma_of(red, green, blue, a.code), share = i % 3 == 1 ? 2.0f : 1.0f;
    c_b += share * (blue - luma) / (2.0f * (1.0f - a.code.k_b));
    c_r += share * (red - luma) / (2.0f * (1.0f - a.code.k_r));
    if (i % 3 > 0 && first_y + i / 3 < a.height && first_x + i % 3 - 1 < a.width) {
      const float code = luma * a.code.luma_span + a.code.luma_zero;
      static_cast<T*>(a.surface)[(n * a.height + y) * a.width + x] = T(stored(code, a.code.largest, a.code.unit));
    }
  }
  T* chroma = static_cast<T*>(a.chroma) + 2 * index;
  chroma[0] = T(stored(c_b * 0.125f * a.code.chroma_span + a.code.chroma_zero, a.code.largest, a.code.unit));
  chroma[1] = T(stored(c_r * 0.125f * a.code.chroma_span + a.code.chroma_zero, a.code.largest, a.code.unit));
}

}  // namespace FG_ISA

const char* from_model_cuda(const FromModelArguments& a, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  if (!a.chroma) {
    FG_ISA::rgb_kernel<<<FG_ISA::blocks_for(a.rows * 3 * a.height * a.width), FG_ISA::kThreads, 0, queue>>>(a);
  } else {
    const auto kernel = a.wide ? FG_ISA::planes_kernel<uint16_t> : FG_ISA::planes_kernel<uint8_t>;
    const int64_t samples = a.rows * ((a.width + 1) / 2) * ((a.height + 1) / 2);
    kernel<<<FG_ISA::blocks_for(samples), FG_ISA::kThreads, 0, queue>>>(a);
  }
  return FG_ISA::launch_error();
}

}  // namespace flowguide
