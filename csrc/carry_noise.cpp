// Noise that follows the flow, on the CPU (docs/math.md section 5). The targets of a source are counted, and their
// fresh noise summed, in the order of the pixels: the same bits on every run and for any number of threads.
#include "image.h"
#include "operations.h"
#include "parallel.h"
#include "scratch.h"
#include "simd.h"

namespace flowguide::FG_ISA {
namespace {

thread_local Scratch memory_of_caller, sums_of_thread;

// Per pixel the sample it addresses, or -1; per line the first and last line that it addresses; per sample how many
// address it; per channel and sample what carries over, but for the fresh noise.
struct Planes {
  int32_t *source, *first, *last;
  float *targets, *carried;
};

void address_line(const CarryNoiseArguments& a, const Planes& planes, int64_t n, int64_t y) {
  const int64_t plane = a.height * a.width, line = n * a.height + y;
  const float* flow = a.flow + n * 2 * plane + y * a.width;
  int32_t* source = planes.source + line * a.width;
  vint first = splat(INT32_MAX), last = splat(-1);
  for (int64_t x = 0; x < a.width; x += kLanes) {
    const int64_t count = a.width - x;
    const vfloat column = lane_numbers() + float(x) + load(flow + x, count) + 0.5f;
    const vfloat row = float(y) + load(flow + plane + x, count) + 0.5f;
    // Floors, compared before they are integers: x + 1/2 >= 0 and < width, false for NaN.
    const vint here = (column >= 0.0f) & (column < float(a.width)) & (row >= 0.0f) & (row < float(a.height));
    const vint at_row = floor_to_int(select(here, row, vfloat{}));
    const vint at = at_row * int32_t(a.width) + floor_to_int(select(here, column, vfloat{}));
    const vint there = here ? at : splat(-1);
    std::memcpy(source + x, &there, sizeof(int32_t) * size_t(smaller(count, kLanes)));
    const vint counted = count >= kLanes ? here : here & (__builtin_convertvector(lane_numbers(), vint) < int32_t(count));
    const vint low = counted ? at_row : splat(INT32_MAX), high = counted ? at_row : splat(-1);
    first = low < first ? low : first;
    last = high > last ? high : last;
  }
  planes.first[line] = least(first);
  planes.last[line] = -least(-last);
}

// Calls body(line, pixels) for each line that may address samples of the lines [from, to) of row n, in order.
template <class Body>
void for_sources(const CarryNoiseArguments& a, const Planes& planes, int64_t n, int64_t from, int64_t to,
                 const Body& body) {
  for (int64_t line = n * a.height; line < (n + 1) * a.height; ++line) {
    if (planes.first[line] < to && planes.last[line] >= from) body(line, planes.source + line * a.width);
  }
}

// All that addresses the lines [from, to) of row n. Nothing else writes there.
void gather_stripe(const CarryNoiseArguments& a, const Planes& planes, int64_t n, int64_t from, int64_t to) {
  const int64_t plane = a.height * a.width, samples = (to - from) * a.width;
  const uint32_t first = uint32_t(from * a.width);
  float* targets = planes.targets + n * plane + first;
  for (int64_t i = 0; i < samples; ++i) targets[i] = 0.0f;
  for_sources(a, planes, n, from, to, [&](int64_t, const int32_t* source) {
    for (int64_t x = 0; x < a.width; ++x) {
      const uint32_t at = uint32_t(source[x]) - first;  // -1 becomes too large
      if (at < uint32_t(samples)) targets[at] += 1.0f;
    }
  });
  float* sums = sums_of_thread.floats(samples);
  for (int64_t channel = n * a.channels; channel < (n + 1) * a.channels; ++channel) {
    for (int64_t i = 0; i < samples; ++i) sums[i] = 0.0f;
    for_sources(a, planes, n, from, to, [&](int64_t line, const int32_t* source) {
      const float* fresh = a.fresh + channel * plane + (line - n * a.height) * a.width;
      for (int64_t x = 0; x < a.width; ++x) {
        const uint32_t at = uint32_t(source[x]) - first;
        if (at < uint32_t(samples)) sums[at] += fresh[x];
      }
    });
    const float* noise = a.noise + channel * plane + first;
    float* carried = planes.carried + channel * plane + first;
    for (int64_t i = 0; i < samples; ++i) {
      const float k = targets[i];
      carried[i] = k > 1.0f ? noise[i] / std::sqrt(k) - sums[i] / k : noise[i];
    }
  }
}

// out[x] = plane[at[x]] without gather instructions, which several processors do slowly. Rows jump, so the hardware
// foresees nothing; `ahead` elements on is what a later line reads.
void gather_line(const float* plane, const int32_t* at, int64_t ahead, float* out, int64_t width) {
  constexpr int64_t kApart = 16;  // floats of a cache line
  for (int64_t first = 0; first < width; first += kApart) {
    const int64_t last = smaller(first + kApart, width);
    __builtin_prefetch(plane + larger(at[first], 0) + ahead);
    for (int64_t x = first; x < last; ++x) out[x] = plane[at[x] < 0 ? 0 : at[x]];
  }
}

// The lines of one row of cells, then the sums of their cells: first down columns.
void carry_cells(const CarryNoiseArguments& a, const Planes& planes, int64_t n, int64_t cell_row) {
  const int64_t plane = a.height * a.width, across = a.width / a.cell, down = a.height / a.cell;
  float *targets = sums_of_thread.floats((2 + a.channels) * a.width), *values = targets + a.width;
  float* columns = values + a.width;
  for (int64_t x = 0; x < a.channels * a.width; ++x) columns[x] = 0.0f;
  for (int64_t y = cell_row * a.cell; y < (cell_row + 1) * a.cell; ++y) {
    const int32_t* source = planes.source + n * plane + y * a.width;
    const int64_t ahead = smaller(4, a.height - 1 - y) * a.width;
    gather_line(planes.targets + n * plane, source, ahead, targets, a.width);
    for (int64_t c = 0; c < a.channels; ++c) {
      const int64_t channel = (n * a.channels + c) * plane;
      gather_line(planes.carried + channel, source, ahead, values, a.width);
      const float* fresh = a.fresh + channel + y * a.width;
      float *out = a.carried + channel + y * a.width, *column = columns + c * a.width;
      for (int64_t x = 0; x < a.width; ++x) {
        const float z = fresh[x], shared = targets[x] > 1.0f ? values[x] + z : values[x];
        out[x] = source[x] < 0 ? z : shared;
        column[x] += out[x];
      }
    }
  }
  for (int64_t c = 0; c < a.channels; ++c) {
    float* latent = a.latent + ((n * a.channels + c) * down + cell_row) * across;
    for (int64_t i = 0; i < across; ++i) {
      float sum = 0.0f;
      for (int64_t x = 0; x < a.cell; ++x) sum += columns[c * a.width + i * a.cell + x];
      latent[i] = sum / float(a.cell);
    }
  }
}

}  // namespace

void carry_noise(const CarryNoiseArguments& a, int threads) {
  const int64_t plane = a.height * a.width, lines = a.rows * a.height, cell_rows = a.height / a.cell;
  float* memory = memory_of_caller.floats((2 * a.rows + a.rows * a.channels) * plane + 2 * lines);
  int32_t* integers = reinterpret_cast<int32_t*>(memory);  // flowguide/native.py refuses planes beyond int32
  const int64_t counted = a.rows * plane + 2 * lines;
  const Planes planes = {integers, integers + a.rows * plane, integers + a.rows * plane + lines, memory + counted,
                         memory + counted + a.rows * plane};
  parallel_for(lines, threads, [&](int64_t line) { address_line(a, planes, line / a.height, line % a.height); });
  // Where a flow is wild each stripe looks at every line, so there are few.
  const int64_t stripes = smaller(a.height, 4 * int64_t(threads)), size = (a.height + stripes - 1) / stripes;
  parallel_for(a.rows * stripes, threads, [&](int64_t i) {
    const int64_t from = smaller(i % stripes * size, a.height);
    gather_stripe(a, planes, i / stripes, from, smaller(from + size, a.height));
  });
  parallel_for(a.rows * cell_rows, threads, [&](int64_t i) {
    carry_cells(a, planes, i / cell_rows, i % cell_rows);
  });
}

}  // namespace flowguide::FG_ISA
