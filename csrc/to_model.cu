// A decoded surface becomes planar RGB in [-1, 1], one thread a pixel; a resize is a second launch.
#include "colour.h"
#include "launch.cuh"

namespace flowguide {
namespace FG_ISA {

template <class T>
__device__ float chroma_at(const T* chroma, const ToModelArguments& a, int64_t x, int64_t y) {
  const int64_t across = (a.width + 1) / 2, down = (a.height + 1) / 2;
  const int64_t farther = smaller(larger(y / 2 + (y % 2 ? 1 : -1), 0), down - 1);
  const T *near_line = chroma + y / 2 * a.chroma_stride_y, *far_line = chroma + farther * a.chroma_stride_y;
  const int64_t here = x / 2 * 2, next = smaller(x / 2 + x % 2, across - 1) * 2;
  const float first = 0.75f * float(near_line[here]) + 0.25f * float(far_line[here]);
  const float second = 0.75f * float(near_line[next]) + 0.25f * float(far_line[next]);
  return 0.5f * (first + second);
}

template <class T>
__device__ void code_pixel(const ToModelArguments& a, int64_t n, int64_t x, int64_t y, float* rgb) {
  const T* chroma = static_cast<const T*>(a.chroma) + n * a.chroma_stride_n;
  const T* luma = static_cast<const T*>(a.surface) + n * a.stride_n + y * a.stride_y;
  rgb_from_code(float(luma[x]), chroma_at(chroma, a, x, y), chroma_at(chroma + 1, a, x, y), a.code, rgb);
}

// Writes a picture of `height` x `width`; beyond the surface its last row and column are repeated.
__global__ void colour_kernel(ToModelArguments a, float* out, int64_t height, int64_t width) {
  const int64_t plane = height * width, index = thread_index();
  if (index >= a.rows * plane) return;
  const int64_t n = index / plane, pixel = index % plane;
  const int64_t x = smaller(pixel % width, a.width - 1), y = smaller(pixel / width, a.height - 1);
  float rgb[3];
  if (!a.chroma) {
    const uint8_t* from = static_cast<const uint8_t*>(a.surface) + n * a.stride_n + y * a.stride_y + x * a.stride_x;
    for (int c = 0; c < 3; ++c) rgb[c] = float(from[c * a.stride_c]) / 127.5f - 1.0f;
  } else if (a.wide) {
    code_pixel<uint16_t>(a, n, x, y, rgb);
  } else {
    code_pixel<uint8_t>(a, n, x, y, rgb);
  }
  for (int c = 0; c < 3; ++c) out[(n * 3 + c) * plane + pixel] = rgb[c];
}

// Which source elements make element i of an axis: a triangle as wide as the scale when shrinking.
struct Reach {
  float centre, support;
  int64_t first, last;

  __device__ Reach(int64_t i, int64_t length, int64_t to) {
    const float scale = float(length) / float(to);
    support = maximum(scale, 1.0f);
    centre = (float(i) + 0.5f) * scale - 0.5f;
    first = larger(int64_t(floorf(centre - support)) + 1, 0);
    last = smaller(int64_t(floorf(centre + support)), length - 1);
  }
  __device__ float weight(int64_t tap) const { return maximum(1.0f - fabsf(float(tap) - centre) / support, 0.0f); }
};

__global__ void resize_kernel(ToModelArguments a, const float* source) {
  const int64_t plane = a.padded_height * a.padded_width, index = thread_index();
  if (index >= a.rows * 3 * plane) return;
  const int64_t pixel = index % plane;
  const Reach across(smaller(pixel % a.padded_width, a.to_width - 1), a.width, a.to_width);
  const Reach down(smaller(pixel / a.padded_width, a.to_height - 1), a.height, a.to_height);
  float sum = 0.0f, weights = 0.0f;
  for (int64_t y = down.first; y <= down.last; ++y) {
    const float* line = source + (index / plane * a.height + y) * a.width;
    for (int64_t x = across.first; x <= across.last; ++x) {
      const float weight = down.weight(y) * across.weight(x);
      sum += weight * line[x];
      weights += weight;
    }
  }
  a.out[index] = sum / weights;
}

}  // namespace FG_ISA

// `scratch` holds the picture before a resize: rows x 3 x height x width floats; null without one.
const char* to_model_cuda(const ToModelArguments& a, float* scratch, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  const int64_t height = scratch ? a.height : a.padded_height, width = scratch ? a.width : a.padded_width;
  FG_ISA::colour_kernel<<<FG_ISA::blocks_for(a.rows * height * width), FG_ISA::kThreads, 0, queue>>>(
      a, scratch ? scratch : a.out, height, width);
  if (scratch) {
    const int64_t elements = a.rows * 3 * a.padded_height * a.padded_width;
    FG_ISA::resize_kernel<<<FG_ISA::blocks_for(elements), FG_ISA::kThreads, 0, queue>>>(a, scratch);
  }
  return FG_ISA::launch_error();
}

}  // namespace flowguide
