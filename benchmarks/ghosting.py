"""The ghost slope of docs/math.md, section 8, without its bias: an instrument in place of the regressor.

A dis-occluded pixel that shows O = g·W + (1 − g)·P (W the warped previous picture, P another painting of what has come
into view) has a plain slope of O − U on W − U above g, for the noise of the unguided painting U stands on both sides.
With two unguided paintings U1 and U2 of independent noise and an instrument Z

    g = E[(O − U1)·Z] / E[(W − U1)·Z]   because   E[(P − U1)·Z] = 0

    unbiased   Z = W − U2, where P is fresh. P may have the noise of U1, or be U1; never that of U2: so U1 and U2 are
               not to be swapped where U1 is the unguided painting with the noise of O.
    content    Z = warp(U2 of the frame before) − U2: nothing in it was painted together with W. P may then also have
               the noise of W, as what is carried from beside the pixel has: what hid the pixel counts, not the tone.

Both ask that P and U have one mean. Where g differs between pixels, each counts by its (W − U1)·Z: noise of W is in the
one and not in the other. Instrumental variables: Reiersøl 1941, Confluence analysis by means of lag moments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flowguide import ops
from flowguide.flow import FlowEstimator
from flowguide.metrics import dis_occluded
from flowguide.types import Frame

BLOCK_FRAMES, DRAWS = 4, 2000
"""Of the bootstrap: a sliver stays for some frames, so frames are drawn in runs."""


class Slope(NamedTuple):
    """A slope and its standard error over the frames of one clip, which knows nothing of other scenes."""

    value: float
    error: float


def moments(shown: Tensor, warped: Tensor, plain: Tensor, instrument: Tensor) -> Tensor:
    """[2] float64: the sums of (O − U1)·Z and of (W − U1)·Z over pixels and channels of one shape."""
    shown, warped, plain, instrument = (picture.double() for picture in (shown, warped, plain, instrument))
    return torch.stack([((shown - plain) * instrument).sum(), ((warped - plain) * instrument).sum()])


def slope(of_frames: Tensor) -> Slope:
    """The pooled slope of `moments` per frame [T, 2], and its error by a circular block bootstrap."""
    count = len(of_frames)
    starts = torch.randint(count, (DRAWS, -(-count // BLOCK_FRAMES)), generator=torch.Generator().manual_seed(0))
    drawn = (starts[..., None] + torch.arange(BLOCK_FRAMES)).flatten(1)[:, :count] % count
    total, sums = of_frames.sum(0), of_frames[drawn].sum(1)
    return Slope(float(total[0] / total[1]), float((sums[:, 0] / sums[:, 1]).std()))


def unbiased_ghosts(
    source: Sequence[Frame],
    clips: Mapping[str, Sequence[Frame]],
    estimator: FlowEstimator,
    plain: str,
    others: Sequence[str],
    shots: Collection[int],
) -> dict[str, dict[str, Slope]]:
    """The slopes "unbiased" and "content" of every clip but `plain`, by its name.

    plain: the unguided clip with the noise of the guided ones, U1; others: unguided clips with other noise, whose mean
    is U2. A clip among `others` is no instrument of its own. shots: positions of the frames that begin one.
    """
    found: dict[str, dict[str, list[Tensor]]] = {
        name: {"unbiased": [], "content": []} for name in clips if name != plain
    }
    for at, (now, before) in enumerate(zip(source[1:], source, strict=False), start=1):
        if at in shots:
            continue
        flow = estimator(now, before)
        hidden = dis_occluded(flow)
        pictures = {name: clip[at].rgb[:, hidden].float() for name, clip in clips.items()}
        warped = {
            name: ops.warp(clip[at - 1].rgb[None].float(), flow.uv[None].float())[0][:, hidden]
            for name, clip in clips.items()
        }
        for name, sums in found.items():
            independent = [other for other in others if other != name]
            after = torch.stack([pictures[other] for other in independent]).mean(0)
            past = torch.stack([warped[other] for other in independent]).mean(0)
            for kind, ahead in (("unbiased", warped[name]), ("content", past)):
                sums[kind].append(moments(pictures[name], warped[name], pictures[plain], ahead - after))
    return {name: {kind: slope(torch.stack(rows)) for kind, rows in sums.items()} for name, sums in found.items()}
