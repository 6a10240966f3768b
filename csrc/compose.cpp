// F_ac(p) = F_ab(p) + F_bc(p + F_ab(p)) and the product of the confidences, on the CPU.
#include "confidence.h"
#include "operations.h"
#include "parallel.h"
#include "sample_block.h"

namespace flowguide::FG_ISA {
namespace {

void compose_line(const ComposeArguments& a, int64_t n, int64_t y) {
  const int64_t plane = a.height * a.width, here = n * 2 * plane + y * a.width;
  const float* second = a.flow_bc + n * 2 * plane;
  Block<2> block = {};
  for (int64_t x = 0; x < a.width; x += kLanes) {
    const int64_t count = a.width - x, at = n * plane + y * a.width + x;
    const vfloat u = load(a.flow_ab + here + x, count), v = load(a.flow_ab + here + plane + x, count);
    const vfloat to_x = lane_numbers() + float(x) + u, to_y = float(y) + v;
    block.place(to_x, to_y, a.height, a.width, kEdge);
    const vfloat sum_u = u + block.sample(second), sum_v = v + block.sample(second + plane);
    vfloat confidence = inside(to_x, to_y, a.height, a.width);
    if (a.confidence_ab) confidence *= clamp01(load(a.confidence_ab + at, count));
    if (a.confidence_bc) confidence *= clamp01(block.sample(a.confidence_bc + n * plane));
    store(a.flow_ac + here + x, sum_u, count);
    store(a.flow_ac + here + plane + x, sum_v, count);
    store(a.confidence + at, select(is_finite(sum_u) & is_finite(sum_v), confidence, vfloat{}), count);
  }
}

}  // namespace

void compose(const ComposeArguments& a, int threads) {
  parallel_for(a.rows * a.height, threads, [&](int64_t line) { compose_line(a, line / a.height, line % a.height); });
}

}  // namespace flowguide::FG_ISA
