// The prior's pixels where they are certain, behind an inward feather, on the CPU. The window operations are separable:
// minima along lines; then, tile by tile, minima down columns, and sums along lines; then sums down columns and the
// blend.
#include "operations.h"
#include "parallel.h"
#include "window.h"

namespace flowguide::FG_ISA {
namespace {

thread_local Scratch planes_of_caller, window_of_thread, tile_of_thread;

constexpr int64_t kLines = 32, kColumns = 256;  // of a tile: with the lines of its windows it fits the nearest caches

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
  const auto certain = [&](int64_t x, int64_t count) {
    return clamp01(load(a.confidence + line * a.width + x, count));
  };
  float* padded = padded_line(window_of_thread, a.width, feather.radius, 1.0f, certain);
  slide<false>(padded, feather.least + line * a.width, a.width, 1, feather.radius);
}

// sums = sums along the lines of a tile row of `values`, which may be `sums` itself.
void sums_along(const float* values, float* sums, int64_t lines, int64_t width, int64_t radius) {
  for (int64_t at = 0; at < lines * width; at += width) {
    const auto value = [&](int64_t x, int64_t count) { return load(values + at + x, count); };
    slide<true>(padded_line(window_of_thread, width, radius, 0.0f, value), sums + at, width, 1, radius);
  }
}

template <class Body>
void for_tiles(const PasteArguments& a, int64_t y, const Body& body) {
  for (int64_t x = 0; x < a.width; x += kColumns) {
    body(Tile{y, x, smaller(kLines, a.height - y), smaller(kColumns, a.width - x)});
  }
}

// The minima of row n's lines from y on, then their sums along lines.
void sums_of_least(const PasteArguments& a, const Feather& feather, int64_t n, int64_t y) {
  const int64_t plane = n * a.height * a.width;
  float* eroded = tile_of_thread.floats(kLines * kColumns);
  for_tiles(a, y, [&](const Tile& tile) {
    slide_down<false>(window_of_thread, feather.least + plane, tile, feather.radius, a.height, a.width, eroded);
    for (int64_t i = 0; i < tile.lines; ++i) {
      copy(eroded + i * tile.columns, feather.sums + plane + (y + i) * a.width + tile.x, tile.columns);
    }
  });
  float* lines = feather.sums + plane + y * a.width;
  sums_along(lines, lines, smaller(kLines, a.height - y), a.width, feather.radius);
}

void sums_of_difference(const PasteArguments& a, const Bands& bands, int64_t line) {
  const int64_t n = line / a.height, y = line % a.height, r = bands.base.radius, plane = a.height * a.width;
  const float* confidence = a.confidence + line * a.width;
  const auto region = [&](int64_t x, int64_t count) {
    return select(load(confidence + x, count) > 0.0f, splat(1.0f), vfloat{});
  };
  slide<true>(padded_line(window_of_thread, a.width, r, 0.0f, region), bands.region + line * a.width, a.width, 1, r);
  for (int64_t c = 0; c < a.channels; ++c) {
    const int64_t at = (n * a.channels + c) * plane + y * a.width;
    const auto difference = [&](int64_t x, int64_t count) {
      const vfloat wanted = load(a.prior + at + x, count) - load(a.generated + at + x, count);
      return select(load(confidence + x, count) > 0.0f, wanted, vfloat{});
    };
    slide<true>(padded_line(window_of_thread, a.width, r, 0.0f, difference), bands.difference + at, a.width, 1, r);
  }
}

// Sums down the columns of a tile, plane after plane: detail, then base, region and difference.
struct Sums {
  float* memory;
  int64_t apart;

  Sums(const PasteArguments& a, const Bands& bands, int64_t n, const Tile& tile)
      : memory(tile_of_thread.floats((3 + a.channels) * kLines * kColumns)), apart(kLines * kColumns) {
    const int64_t plane = a.height * a.width;
    float* out = memory;
    const auto add = [&](const float* from, int64_t radius) {
      slide_down<true>(window_of_thread, from, tile, radius, a.height, a.width, out);
      out += apart;
    };
    add(bands.detail.sums + n * plane, bands.detail.radius);
    if (!a.multiband) return;
    add(bands.base.sums + n * plane, bands.base.radius);
    add(bands.region + n * plane, bands.base.radius);
    for (int64_t c = n * a.channels; c < (n + 1) * a.channels; ++c) {
      add(bands.difference + c * plane, bands.base.radius);
    }
  }
  vfloat at(int64_t which, int64_t place, int64_t count) const { return load(memory + which * apart + place, count); }
};

vfloat alpha(const PasteArguments& a, vfloat sum, int64_t radius, int64_t y, int64_t x) {
  return a.weight * (sum / window(y, x, radius, a.height, a.width));
}

void blend(const PasteArguments& a, const Bands& bands, const Sums& sums, int64_t n, int64_t y, int64_t x, int64_t place,
           int64_t count) {
  const int64_t plane = a.height * a.width, here = y * a.width + x;
  const vint region = load(a.confidence + n * plane + here, count) > 0.0f;
  const vfloat detail = alpha(a, sums.at(0, place, count), bands.detail.radius, y, x);
  const vfloat base = a.multiband ? alpha(a, sums.at(1, place, count), bands.base.radius, y, x) : detail;
  const vfloat share = a.multiband ? sums.at(2, place, count) : vfloat{};
  for (int64_t c = 0; c < a.channels; ++c) {
    const int64_t at = (n * a.channels + c) * plane + here;
    __builtin_prefetch(a.generated + at + a.width);  // a tile's next line, too far on for the hardware
    __builtin_prefetch(a.prior + at + a.width);
    const vfloat generated = load(a.generated + at, count), prior = load(a.prior + at, count);
    const vfloat difference = select(region, prior - generated, vfloat{});
    vfloat low = {};
    if (a.multiband) low = select(region, sums.at(3 + c, place, count) / share, vfloat{});
    vfloat finished = generated + detail * (difference - low) + base * low;
    finished = select(base == 1.0f, prior, finished);
    store(a.out + at, select(detail == 0.0f, generated, finished), count);
  }
}

void blend_lines(const PasteArguments& a, const Bands& bands, int64_t n, int64_t y) {
  for_tiles(a, y, [&](const Tile& tile) {
    const Sums sums(a, bands, n, tile);
    for (int64_t i = 0; i < tile.lines; ++i) {
      for (int64_t x = 0; x < tile.columns; x += kLanes) {
        blend(a, bands, sums, n, y + i, tile.x + x, i * tile.columns + x, tile.columns - x);
      }
    }
  });
}

}  // namespace

void paste(const PasteArguments& a, int threads) {
  const int64_t lines = a.rows * a.height, plane = lines * a.width, blocks = (a.height + kLines - 1) / kLines;
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
    if (!a.multiband) return;
    least_along(a, bands.base, line);
    sums_of_difference(a, bands, line);
  });
  parallel_for(a.rows * blocks, threads, [&](int64_t block) {
    sums_of_least(a, bands.detail, block / blocks, block % blocks * kLines);
    if (a.multiband) sums_of_least(a, bands.base, block / blocks, block % blocks * kLines);
  });
  parallel_for(a.rows * blocks, threads, [&](int64_t block) {
    blend_lines(a, bands, block / blocks, block % blocks * kLines);
  });
}

}  // namespace flowguide::FG_ISA
