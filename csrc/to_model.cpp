// A decoded surface becomes planar RGB in [-1, 1], resized and padded, on the CPU.
#include "colour.h"
#include "parallel.h"
#include "resize.h"

namespace flowguide::FG_ISA {
namespace {

thread_local Scratch lines_of_thread, chroma_of_thread, tables_of_caller, planes_of_caller;

template <int STRIDE>
void rgb_line(const uint8_t* from, int64_t stride, float* out, int64_t width) {
  for (int64_t x = 0; x < width; ++x) out[x] = float(from[x * (STRIDE ? STRIDE : stride)]) / 127.5f - 1.0f;
}

// Cb and Cr of luma line y at every luma column (left siting), `width` apart from the line of Cb.
template <class T>
void chroma_line(const ToModelArguments& a, int64_t n, int64_t y, float* out) {
  const int64_t across = (a.width + 1) / 2, down = (a.height + 1) / 2;
  const int64_t farther = smaller(larger(y / 2 + (y % 2 ? 1 : -1), 0), down - 1);
  const T* chroma = static_cast<const T*>(a.chroma) + n * a.chroma_stride_n;
  const T *near_line = chroma + y / 2 * a.chroma_stride_y, *far_line = chroma + farther * a.chroma_stride_y;
  float* pairs = chroma_of_thread.floats(2 * across);
  for (int64_t i = 0; i < 2 * across; ++i) pairs[i] = 0.75f * float(near_line[i]) + 0.25f * float(far_line[i]);
  for (int component = 0; component < 2; ++component) {
    const float* from = pairs + component;
    float* to = out + component * a.width;
    for (int64_t i = 0; i < a.width / 2; ++i) {
      to[2 * i] = from[2 * i];
      to[2 * i + 1] = 0.5f * (from[2 * i] + from[2 * smaller(i + 1, across - 1)]);
    }
    if (a.width % 2) to[a.width - 1] = from[2 * (across - 1)];
  }
}

template <class T>
void code_line(const ToModelArguments& a, int64_t n, int64_t y, float* red, float* green, float* blue) {
  const T* luma = static_cast<const T*>(a.surface) + n * a.stride_n + y * a.stride_y;
  float* line = lines_of_thread.floats(3 * a.width);
  chroma_line<T>(a, n, y, line);
  for (int64_t x = 0; x < a.width; ++x) line[2 * a.width + x] = float(luma[x]);
  for (int64_t x = 0; x < a.width; x += kLanes) {
    const int64_t count = a.width - x;
    vfloat rgb[3];
    const vfloat c_b = load(line + x, count), c_r = load(line + a.width + x, count);
    rgb_from_code(load(line + 2 * a.width + x, count), c_b, c_r, a.code, rgb);
    store(red + x, rgb[0], count);
    store(green + x, rgb[1], count);
    store(blue + x, rgb[2], count);
  }
}

// Line y of the surface as three lines, `apart` floats apart.
void source_line(const ToModelArguments& a, int64_t n, int64_t y, float* out, int64_t apart) {
  if (a.chroma) {
    (a.wide ? code_line<uint16_t> : code_line<uint8_t>)(a, n, y, out, out + apart, out + 2 * apart);
    return;
  }
  for (int64_t c = 0; c < 3; ++c) {
    const uint8_t* from = static_cast<const uint8_t*>(a.surface) + n * a.stride_n + c * a.stride_c + y * a.stride_y;
    const auto line = a.stride_x == 1 ? rgb_line<1> : a.stride_x == 3 ? rgb_line<3> : rgb_line<0>;
    line(from, a.stride_x, out + c * apart, a.width);
  }
}

void pad_right(float* line, int64_t width, int64_t padded) {
  for (int64_t x = width; x < padded; ++x) line[x] = line[width - 1];
}

}  // namespace

void to_model(const ToModelArguments& a, int threads) {
  const bool resized = a.to_height != a.height || a.to_width != a.width;
  const int64_t apart = a.padded_height * a.padded_width;
  if (!resized) {
    parallel_for(a.rows * a.padded_height, threads, [&](int64_t line) {
      const int64_t n = line / a.padded_height, y = line % a.padded_height;
      float* out = a.out + n * 3 * apart + y * a.padded_width;
      source_line(a, n, smaller(y, a.height - 1), out, apart);
      for (int64_t c = 0; c < 3; ++c) pad_right(out + c * apart, a.width, a.padded_width);
    });
    return;
  }
  const int64_t across_floats = Axis::floats_for(a.width, a.to_width);
  float* tables = tables_of_caller.floats(across_floats + Axis::floats_for(a.height, a.to_height));
  const Axis across = Axis::make(a.width, a.to_width, tables);
  const Axis down = Axis::make(a.height, a.to_height, tables + across_floats);
  float* planes = planes_of_caller.floats(a.rows * 3 * a.height * a.to_width);
  parallel_for(a.rows * a.height, threads, [&](int64_t line) {
    thread_local Scratch rgb_of_thread;
    const int64_t n = line / a.height, y = line % a.height;
    float* rgb = rgb_of_thread.floats(3 * a.width);
    source_line(a, n, y, rgb, a.width);
    for (int64_t c = 0; c < 3; ++c) {
      resize_across(across, rgb + c * a.width, planes + ((n * 3 + c) * a.height + y) * a.to_width, a.to_width);
    }
  });
  parallel_for(a.rows * 3 * a.padded_height, threads, [&](int64_t line) {
    const int64_t plane = line / a.padded_height, y = line % a.padded_height;
    float* out = a.out + line * a.padded_width;
    resize_down(down, planes + plane * a.height * a.to_width, smaller(y, a.to_height - 1), out, a.to_width);
    pad_right(out, a.to_width, a.padded_width);
  });
}

}  // namespace flowguide::FG_ISA
