// The prior's pixels where they are certain, behind an inward feather, on the CPU. The window operations are separable:
// minima along lines, then down columns and sums along lines, then sums down columns and the blend.
#include "operations.h"
#include "parallel.h"
#include "window.h"

namespace flowguide::FG_ISA {
namespace {

thread_local Scratch planes_of_caller, line_of_thread;

// The planes of one feather: minima along lines, then sums along lines of the eroded confidence.
struct Feather {
  int64_t radius;
  float *least, *sums;
};

struct Bands {
  Feather detail, base;
  float *region, *difference;  // sums along lines over base.radius; multiband only
};

void least_along(const PasteArguments& a, const Feather& feather, int64_t line) {
  const float* confidence = a.confidence + line * a.width;
  const float* padded =
      padded_line(line_of_thread, a.width, feather.radius, 1.0f, [&](int64_t x) { return clamp01(confidence[x]); });
  slide<false>(padded, feather.least + line * a.width, a.width, feather.radius);
}

void sums_of_least(const PasteArguments& a, const Feather& feather, int64_t line) {
  const int64_t n = line / a.height, y = line % a.height, r = feather.radius;
  const float* plane = feather.least + n * a.height * a.width;
  float* padded = padded_line(line_of_thread, a.width, r, 0.0f, [](int64_t) { return 1.0f; });
  for (int64_t i = larger(y - r, 0); i <= smaller(y + r, a.height - 1); ++i) {
    for (int64_t x = 0; x < a.width; ++x) padded[r + x] = minimum(padded[r + x], plane[i * a.width + x]);
  }
  slide<true>(padded, feather.sums + line * a.width, a.width, r);
}

void sums_of_difference(const PasteArguments& a, const Bands& bands, int64_t line) {
  const int64_t n = line / a.height, y = line % a.height, r = bands.base.radius, plane = a.height * a.width;
  const float* confidence = a.confidence + line * a.width;
  const auto region = [&](int64_t x) { return confidence[x] > 0.0f ? 1.0f : 0.0f; };
  slide<true>(padded_line(line_of_thread, a.width, r, 0.0f, region), bands.region + line * a.width, a.width, r);
  for (int64_t c = 0; c < a.channels; ++c) {
    const int64_t at = (n * a.channels + c) * plane + y * a.width;
    const auto difference = [&](int64_t x) {
      return confidence[x] > 0.0f ? a.prior[at + x] - a.generated[at + x] : 0.0f;
    };
    slide<true>(padded_line(line_of_thread, a.width, r, 0.0f, difference), bands.difference + at, a.width, r);
  }
}

vfloat alpha(const PasteArguments& a, const Feather& feather, int64_t n, int64_t y, int64_t x) {
  const vfloat sum = sum_down(feather.sums + n * a.height * a.width, y, x, feather.radius, a.height, a.width);
  return a.weight * (sum / window(y, x, feather.radius, a.height, a.width));
}

void blend_line(const PasteArguments& a, const Bands& bands, int64_t n, int64_t y) {
  const int64_t plane = a.height * a.width;
  for (int64_t x = 0; x < a.width; x += kLanes) {
    const int64_t count = a.width - x, here = y * a.width + x;
    const vint region = load(a.confidence + n * plane + here, count) > 0.0f;
    const vfloat detail = alpha(a, bands.detail, n, y, x);
    const vfloat base = a.multiband ? alpha(a, bands.base, n, y, x) : detail;
    const vfloat share =
        a.multiband ? sum_down(bands.region + n * plane, y, x, bands.base.radius, a.height, a.width) : vfloat{};
    for (int64_t c = 0; c < a.channels; ++c) {
      const int64_t channel = (n * a.channels + c) * plane;
      const vfloat generated = load(a.generated + channel + here, count), prior = load(a.prior + channel + here, count);
      const vfloat difference = select(region, prior - generated, vfloat{});
      vfloat low = {};
      if (a.multiband) {
        low = sum_down(bands.difference + channel, y, x, bands.base.radius, a.height, a.width) / share;
        low = select(region, low, vfloat{});
      }
      vfloat finished = generated + detail * (difference - low) + base * low;
      finished = select(base == 1.0f, prior, finished);
      store(a.out + channel + here, select(detail == 0.0f, generated, finished), count);
    }
  }
}

}  // namespace

void paste(const PasteArguments& a, int threads) {
  const int64_t lines = a.rows * a.height, plane = lines * a.width;
  float* memory = planes_of_caller.floats(plane * (a.multiband ? 5 + a.channels : 2));
  Bands bands = {{a.feather_px, memory, memory + plane}, {4 * a.feather_px, nullptr, nullptr}, nullptr, nullptr};
  if (a.multiband) {
    bands.base.least = memory + 2 * plane;
    bands.base.sums = memory + 3 * plane;
    bands.region = memory + 4 * plane;
    bands.difference = memory + 5 * plane;
  }
  parallel_for(lines, threads, [&](int64_t line) {
    least_along(a, bands.detail, line);
    if (a.multiband) least_along(a, bands.base, line);
  });
  parallel_for(lines, threads, [&](int64_t line) {
    sums_of_least(a, bands.detail, line);
    if (!a.multiband) return;
    sums_of_least(a, bands.base, line);
    sums_of_difference(a, bands, line);
  });
  parallel_for(lines, threads, [&](int64_t line) { blend_line(a, bands, line / a.height, line % a.height); });
}

}  // namespace flowguide::FG_ISA
