"""out(p) = image(p + flow(p)).

image [N, C, H, W], flow [N, 2, H, W] in pixels, out [N, C, H, W]. Computed in float32, stored in the image's dtype. The
picture is continued beyond its border by BORDER; 0 where the flow is not finite.
"""

import triton
import triton.language as tl
from flowguide.kernels.launch import block, dense
from flowguide.kernels.sample import BORDERS, TAPS_OF, int64, warp_planes
from torch import Tensor


@triton.jit
def warp_kernel(
    image_ptr,
    flow_ptr,
    out_ptr,
    height,
    width,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    BORDER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    plane = int64(height) * width
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    mask = pixel < plane
    flow = flow_ptr + n * 2 * plane + pixel
    x = (pixel % width).to(tl.float32) + tl.load(flow, mask=mask, other=0.0).to(tl.float32)
    y = (pixel // width).to(tl.float32) + tl.load(flow + plane, mask=mask, other=0.0).to(tl.float32)
    warp_planes(image_ptr, out_ptr, n * CHANNELS, pixel, x, y, mask, height, width, CHANNELS, TAPS, BORDER)


def warp(image: Tensor, flow: Tensor, mode: str, border: str, out: tuple[Tensor, ...]) -> None:
    n, channels, height, width = image.shape
    size = block(256)
    warp_kernel[(triton.cdiv(height * width, size), n)](
        *(dense(image), dense(flow), out[0], height, width),
        CHANNELS=channels,
        TAPS=TAPS_OF[mode],
        BORDER=BORDERS[border],
        BLOCK=size,
    )
