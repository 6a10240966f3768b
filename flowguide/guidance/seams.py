"""No seam where a frame's own pixels fill what is not known: they join on to the carried ones around them.

Two paintings of one thing differ in tone from place to place. The difference along the border of a hole is continued
into it by push-pull, coarser the further in, and added to the frame's own pixels: their detail stays, their tone meets
the surroundings'. It is gradient-domain cloning with push-pull in the place of the Laplace equation (Perez et al.,
SIGGRAPH 2003; Farbman et al., SIGGRAPH 2009), and, since fine differences reach only as far as their own size, a paste
in as many bands as the hole is wide.
"""

from __future__ import annotations

from torch import Tensor

from .. import ops


def joined(own: Tensor, prior: Tensor, confidence: Tensor) -> Tensor:
    """`own` [3, H, W] with its tone brought to that of `prior` where the latter is known, in [-1, 1].

    prior: [3, H, W], finite where it is known. confidence: [H, W] in [0, 1]; 1 is known. Where nothing is known, or
    all is, `own` comes back as it is.
    """
    difference = (prior - own).masked_fill(confidence == 0, 0.0)
    return (own + ops.fill(difference[None], confidence[None])[0]).clamp(-1.0, 1.0)
