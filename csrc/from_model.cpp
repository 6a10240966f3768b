// Planar RGB in [-1, 1] becomes a surface: cropped, rounded to nearest and clamped, on the CPU.
#include "colour.h"
#include "parallel.h"
#include "scratch.h"

namespace flowguide::FG_ISA {
namespace {

thread_local Scratch lines_of_thread, pairs_of_thread;

void rgb_line(const float* image, uint8_t* out, int64_t width) {
  for (int64_t x = 0; x < width; ++x) {
    const float value = (image[x] + 1.0f) * 127.5f + 0.5f;  // at most 255.5, so truncation rounds down
    out[x] = uint8_t(int32_t(value > 0.5f ? minimum(value, 255.5f) : 0.0f));
  }
}

template <class T>
void store_codes(T* out, vfloat value, const Code& code, int64_t count) {
  typedef T vcode __attribute__((vector_size(sizeof(T) * kLanes)));
  const vint number = __builtin_convertvector(stored(value, code.largest, code.unit), vint);
  const vcode codes = __builtin_convertvector(number, vcode);
  std::memcpy(out, &codes, sizeof(T) * size_t(smaller(count, kLanes)));
}

// Writes luma line y and adds its share of Cb and Cr (two lines of `width` in `chroma`).
template <class T>
void code_line(const FromModelArguments& a, int64_t n, int64_t y, float* chroma) {
  const float* image = a.image + (n * 3 * a.padded_height + y) * a.padded_width;
  const int64_t plane = a.padded_height * a.padded_width;
  T* luma = static_cast<T*>(a.surface) + (n * a.height + y) * a.width;
  for (int64_t x = 0; x < a.width; x += kLanes) {
    const int64_t count = a.width - x;
    const vfloat red = unit_range(load(image + x, count));
    const vfloat green = unit_range(load(image + plane + x, count));
    const vfloat blue = unit_range(load(image + 2 * plane + x, count));
    const vfloat luminance = luma_of(red, green, blue, a.code);
    store_codes(luma + x, luminance * a.code.luma_span + a.code.luma_zero, a.code, count);
    const vfloat c_b = (blue - luminance) / (2.0f * (1.0f - a.code.k_b));
    const vfloat c_r = (red - luminance) / (2.0f * (1.0f - a.code.k_r));
    store(chroma + x, load(chroma + x, count) + c_b, count);
    store(chroma + a.width + x, load(chroma + a.width + x, count) + c_r, count);
  }
}

// Weights 1 2 1 around column 2i; `chroma` holds the sums of two lines.
template <class T>
void chroma_line(const FromModelArguments& a, int64_t n, int64_t row, const float* chroma) {
  const int64_t across = (a.width + 1) / 2, down = (a.height + 1) / 2;
  T* out = static_cast<T*>(a.chroma) + (n * down + row) * across * 2;
  float* pairs = pairs_of_thread.floats(2 * across);
  for (int64_t component = 0; component < 2; ++component) {
    const float* line = chroma + component * a.width;
    pairs[component] = line[0] + 2.0f * line[0] + line[smaller(1, a.width - 1)];
    for (int64_t i = 1; i < a.width / 2; ++i) {
      pairs[2 * i + component] = line[2 * i - 1] + 2.0f * line[2 * i] + line[2 * i + 1];
    }
    if (a.width % 2 && across > 1) {
      pairs[2 * (across - 1) + component] = line[a.width - 2] + 3.0f * line[a.width - 1];
    }
  }
  for (int64_t i = 0; i < 2 * across; i += kLanes) {
    const vfloat sum = load(pairs + i, 2 * across - i);
    store_codes(out + i, sum * 0.125f * a.code.chroma_span + a.code.chroma_zero, a.code, 2 * across - i);
  }
}

template <class T>
void code_lines(const FromModelArguments& a, int64_t n, int64_t row) {
  float* chroma = lines_of_thread.floats(2 * a.width);
  for (int64_t x = 0; x < 2 * a.width; ++x) chroma[x] = 0.0f;
  code_line<T>(a, n, 2 * row, chroma);
  if (2 * row + 1 < a.height) {
    code_line<T>(a, n, 2 * row + 1, chroma);
  } else {
    for (int64_t x = 0; x < 2 * a.width; ++x) chroma[x] *= 2.0f;
  }
  chroma_line<T>(a, n, row, chroma);
}

}  // namespace

void from_model(const FromModelArguments& a, int threads) {
  if (!a.chroma) {
    parallel_for(a.rows * 3 * a.height, threads, [&](int64_t line) {
      const int64_t plane = line / a.height, y = line % a.height;
      rgb_line(a.image + (plane * a.padded_height + y) * a.padded_width,
               static_cast<uint8_t*>(a.surface) + line * a.width, a.width);
    });
    return;
  }
  const int64_t down = (a.height + 1) / 2;
  const auto lines = a.wide ? code_lines<uint16_t> : code_lines<uint8_t>;
  parallel_for(a.rows * down, threads, [&](int64_t job) { lines(a, job / down, job % down); });
}

}  // namespace flowguide::FG_ISA
