"""The public signature of every operation. Its meaning is in `flowguide.reference`, the choice of code in `dispatch`.

Convention: tensors in and out, batch first; pictures are planar float RGB in [-1, 1]; pixel centres at x = 0..W-1,
y = 0..H-1; flows are (u, v) in pixels, u right, v down, and `flow[:, :, y, x]` says where the content of this pixel
lies in the other picture. Half-precision tensors are computed in float32. Non-contiguous tensors are copied first.

Every operation takes `implementation=` ("auto", "reference", "cpu", "cuda", "triton"; refused if it is not here) and
`out=`, contiguous tensors to be filled instead of new ones. Wrong arguments raise UsageError. No operation but the
reference has a gradient, so "auto" takes the reference where one is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .checks import FLOATS, expect, option, positive, tensor
from .dispatch import IMPLEMENTATIONS, OPERATIONS, Output, implementations, resolve, run, use
from .reference import ConfidenceSettings, Prediction, StepRow
from .reference_colour import LUMA_WEIGHTS

__all__ = [
    "IMPLEMENTATIONS",
    "OPERATIONS",
    "ConfidenceSettings",
    "Prediction",
    "StepRow",
    "carry_noise",
    "compose",
    "composite",
    "fill",
    "from_model",
    "guided_step",
    "implementations",
    "paste",
    "predict",
    "resolve",
    "to_model",
    "use",
    "warp",
]

Mode = Literal["bilinear", "bicubic", "spline36"]
Border = Literal["edge", "zero", "reflect", "wrap"]
Implementation = Literal["auto", "reference", "cpu", "cuda", "triton"]
MODES = ("bilinear", "bicubic", "spline36")
BORDERS = ("edge", "zero", "reflect", "wrap")


def warp(
    image: Tensor,  # [N, C, H, W]
    flow: Tensor,  # [N, 2, H, W] px
    *,
    mode: Mode = "bilinear",
    border: Border = "edge",
    out: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Tensor:  # [N, C, H, W] of image's dtype
    """Backward warp: out(p) = image(p + flow(p)).

    "bicubic" is Catmull-Rom (Keys, a = -1/2); "spline36" looks at 6 x 6 pixels and keeps more of fine detail. The
    picture is continued beyond its border by repeating the edge pixel, by zeros, by reflection about the outermost
    centres (d c b | a b c d) or by wrapping, and then sampled. Zero flow is the identity and an integer flow a shift,
    bit for bit. Where the flow is not finite the result is 0.
    """
    n, _, height, width = tensor("image", image, ("N", "C", "H", "W")).shape
    tensor("flow", flow, (n, 2, height, width), image.device)
    option("mode", mode, MODES)
    option("border", border, BORDERS)
    outputs = [(tuple(image.shape), image.dtype)]
    return run("warp", implementation, (image, flow), (mode, border), outputs, None if out is None else (out,))[0]


def predict(
    reference: Tensor,  # [N, C, H, W], finished
    flow: Tensor,  # [N, 2, H, W] px, this frame -> reference
    flow_back: Tensor | None,  # [N, 2, H, W] px, reference -> this frame; None only with given_confidence
    source_at: Tensor | None = None,  # [N, 3, H, W], the source video here
    source_to: Tensor | None = None,  # [N, 3, H, W], and at the reference
    given_confidence: Tensor | None = None,  # [N, H, W] in [0, 1]
    *,
    cell: int = 8,
    mode: Mode = "bicubic",
    settings: ConfidenceSettings | None = None,
    out: Prediction | None = None,
    implementation: Implementation = "auto",
) -> Prediction:
    """What the finished reference says about this frame, and how far to believe it.

    prior(p) = reference(p + flow(p)), the edge repeated, 0 where the flow is not finite. Confidence in [0, 1] is the
    product of the forward-backward check, the motion boundary and (with both sources) the photometric check; a given
    confidence replaces the first two. It is 0 where the flow leaves the picture by more than half a pixel or is not
    finite. Both are pooled to cells of `cell` pixels: the flow averaged (non-finite counts as 0) and divided by
    `cell`, the confidence by minimum; cells cut by the border pool the pixels they have, so h = ceil(H / cell).
    Confidences and flow_latent have the flow's dtype, the prior the reference's.
    """
    n, channels, height, width = tensor("reference", reference, ("N", "C", "H", "W")).shape
    device = reference.device
    tensor("flow", flow, (n, 2, height, width), device)
    if flow_back is not None or given_confidence is None:
        tensor("flow_back", flow_back, (n, 2, height, width), device)
    expect((source_at is None) == (source_to is None), "source_at and source_to", "given together", "one of them")
    if source_at is not None and source_to is not None:
        tensor("source_at", source_at, (n, "C", height, width), device)
        tensor("source_to", source_to, tuple(source_at.shape), device)
    if given_confidence is not None:
        tensor("given_confidence", given_confidence, (n, height, width), device)
    positive("cell", cell)
    option("mode", mode, MODES)
    rows, columns = -(-height // cell), -(-width // cell)
    outputs = [
        ((n, channels, height, width), reference.dtype),
        ((n, height, width), flow.dtype),
        ((n, 2, rows, columns), flow.dtype),
        ((n, rows, columns), flow.dtype),
    ]
    inputs = (reference, flow, flow_back, source_at, source_to, given_confidence)
    chosen = ConfidenceSettings() if settings is None else settings
    return Prediction(*run("predict", implementation, inputs, (cell, mode, chosen), outputs, out))


def compose(
    flow_ab: Tensor,  # [N, 2, H, W] px
    flow_bc: Tensor,  # [N, 2, H, W] px
    confidence_ab: Tensor | None = None,  # [N, H, W] in [0, 1]
    confidence_bc: Tensor | None = None,  # [N, H, W] in [0, 1]
    *,
    out: tuple[Tensor, Tensor] | None = None,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:  # flow_ac [N, 2, H, W], confidence [N, H, W], of flow_ab's dtype
    """F_ac(p) = F_ab(p) + F_bc(p + F_ab(p)); the confidences are sampled likewise and multiply, an absent one is 1.

    Confidence is 0 where p + F_ab(p) is out of the picture or the composed flow is not finite.
    """
    n, _, height, width = tensor("flow_ab", flow_ab, ("N", 2, "H", "W")).shape
    tensor("flow_bc", flow_bc, (n, 2, height, width), flow_ab.device)
    for argument, value in (("confidence_ab", confidence_ab), ("confidence_bc", confidence_bc)):
        if value is not None:
            tensor(argument, value, (n, height, width), flow_ab.device)
    outputs = [((n, 2, height, width), flow_ab.dtype), ((n, height, width), flow_ab.dtype)]
    flow, confidence = run(
        "compose", implementation, (flow_ab, flow_bc, confidence_ab, confidence_bc), (), outputs, out
    )
    return flow, confidence


def composite(
    priors: Tensor,  # [N, K, C, H, W]
    confidences: Tensor,  # [N, K, H, W] in [0, 1]
    *,
    rule: Literal["mean", "best"] = "mean",
    out: tuple[Tensor, Tensor] | None = None,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:  # prior [N, C, H, W], confidence [N, H, W]
    """K references become one.

    "mean": the confidence-weighted mean, and the largest confidence. "best": references in the order of their reliable
    area (confidence from 0.5); each pixel takes the first that is reliable there, else the one of highest confidence,
    with its confidence. Where every confidence is 0 the prior is 0; a prior of confidence 0 may be NaN.
    """
    n, k, channels, height, width = tensor("priors", priors, ("N", "K", "C", "H", "W")).shape
    tensor("confidences", confidences, (n, k, height, width), priors.device)
    option("rule", rule, ("mean", "best"))
    outputs = [((n, channels, height, width), priors.dtype), ((n, height, width), confidences.dtype)]
    prior, confidence = run("composite", implementation, (priors, confidences), (rule,), outputs, out)
    return prior, confidence


def fill(
    prior: Tensor,  # [N, C, H, W]
    confidence: Tensor,  # [N, H, W] in [0, 1]
    *,
    out: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Tensor:  # [N, C, H, W]
    """The prior without holes, by push-pull: averages of known pixels fill in where nothing is known.

    Where confidence is 1 the prior is returned unchanged, where it is 0 the prior does not matter (it may be NaN). With
    no known pixel at all the result is 0.
    """
    n, _, height, width = tensor("prior", prior, ("N", "C", "H", "W")).shape
    tensor("confidence", confidence, (n, height, width), prior.device)
    outputs = [(tuple(prior.shape), prior.dtype)]
    return run("fill", implementation, (prior, confidence), (), outputs, None if out is None else (out,))[0]


def guided_step(
    x: Tensor,  # [N, C, h, w]
    model_output: Tensor,  # [N, C, h, w]
    coefficients: Tensor | StepRow | Sequence[StepRow],  # [N, 9] float32 or float64, columns of StepRow
    *,
    model_output_uncond: Tensor | None = None,  # [N, C, h, w]
    k0: Tensor | None = None,  # [N, C, h, w]
    weight: Tensor | None = None,  # [N, h, w] in [0, 1]
    x0_prev: Tensor | None = None,  # [N, C, h, w]
    noise: Tensor | None = None,  # [N, C, h, w]
    erode: bool = True,
    out: tuple[Tensor, Tensor] | None = None,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:  # x_next, guided x0, both of x's dtype
    """One step of any sampler, guided, each batch row with coefficients of its own.

    m = uncond + guidance_scale (model_output - uncond) if uncond is given; x0 = P x + Q m, clamped to [-clip, clip] if
    clip > 0; w = share * min3x3(weight) (just share * weight without `erode`); x0' = x0 + w (k0 - x0);
    x_next = A x + B x0' + C x0_prev + D noise. Where w is 0 neither k0 nor the weight changes a bit, not even if NaN; a
    term whose C or D is 0 likewise. One StepRow serves every row of the batch.
    """
    n, channels, height, width = tensor("x", x, ("N", "C", "h", "w")).shape
    shape = (n, channels, height, width)
    tensor("model_output", model_output, shape, x.device)
    for argument, value in (
        ("model_output_uncond", model_output_uncond),
        ("k0", k0),
        ("x0_prev", x0_prev),
        ("noise", noise),
    ):
        if value is not None:
            tensor(argument, value, shape, x.device)
    if weight is not None:
        tensor("weight", weight, (n, height, width), x.device)
    expect((k0 is None) == (weight is None), "k0 and weight", "given together", "one of them")
    table = coefficient_table(coefficients, n)
    if table.device.type == "cpu" and (x0_prev is None or noise is None):
        rows = table.tolist()
        expect(x0_prev is not None or all(row[4] == 0 for row in rows), "x0_prev", "given where C is not 0", None)
        expect(noise is not None or all(row[5] == 0 for row in rows), "noise", "given where D is not 0", None)
    if x.dtype != torch.float64:
        table = table.float()
    inputs = (x, model_output, table, model_output_uncond, k0, weight, x0_prev, noise)
    outputs = [(shape, x.dtype), (shape, x.dtype)]
    x_next, x0 = run("guided_step", implementation, inputs, (erode,), outputs, out)
    return x_next, x0


def coefficient_table(coefficients: Tensor | StepRow | Sequence[StepRow], rows: int) -> Tensor:
    """[rows, 9] in the order of StepRow."""
    if isinstance(coefficients, StepRow):
        coefficients = [coefficients] * rows
    if not isinstance(coefficients, Tensor):
        coefficients = torch.tensor([tuple(row) for row in coefficients], dtype=torch.float64)
    columns = len(StepRow._fields)
    return tensor("coefficients", coefficients, (rows, columns), None, (torch.float32, torch.float64))


def carry_noise(
    noise: Tensor,  # [N, C, H, W], unit Gaussian, cell x cell samples per latent cell
    flow: Tensor,  # [N, 2, H, W], this frame -> previous, in samples
    fresh: Tensor,  # [N, C, H, W], unit Gaussian
    *,
    cell: int = 8,
    out: tuple[Tensor, Tensor] | None = None,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:  # carried [N, C, H, W], latent [N, C, H / cell, W / cell]
    """Noise follows the flow and stays unit Gaussian; fresh noise where no source covers it or the flow is not finite.

    Nearest addressing (half rounds up) in float32. Where k targets address one value v, target i gets
    v / sqrt(k) + z_i - mean(z); with k = 1 the value itself. The latent is the sum over the cell divided by `cell`. The
    same input gives the same bits on every run.
    """
    n, _, height, width = tensor("noise", noise, ("N", "C", "H", "W")).shape
    tensor("flow", flow, (n, 2, height, width), noise.device)
    tensor("fresh", fresh, tuple(noise.shape), noise.device, (noise.dtype,))
    positive("cell", cell)
    expect(height % cell == 0 and width % cell == 0, "noise", f"a multiple of cell={cell} in height and width", noise)
    latent = (*noise.shape[:2], height // cell, width // cell)
    outputs = [(tuple(noise.shape), noise.dtype), (latent, noise.dtype)]
    carried, summed = run("carry_noise", implementation, (noise, flow, fresh), (cell,), outputs, out)
    return carried, summed


def paste(
    generated: Tensor,  # [N, C, H, W]
    prior: Tensor,  # [N, C, H, W]
    confidence: Tensor,  # [N, H, W] in [0, 1]
    *,
    weight: float = 1.0,
    feather_px: int = 4,
    rule: Literal["feather", "multiband"] = "feather",
    out: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Tensor:  # [N, C, H, W] of generated's dtype
    """The prior's pixels where they are certain, the generated ones elsewhere.

    The seam is a ramp of 2 feather_px + 1 pixels wholly inside the confident region (minimum, then mean, within
    feather_px), times `weight`. Outside it the generated pixel is returned bit for bit and the prior may be NaN; where
    the ramp is 1 (and weight is 1) the prior. "multiband": the base, a mean over 8 feather_px + 1 pixels, crosses over
    four times as wide as the detail on it, so that a difference of colour shows no seam.
    """
    n, _, height, width = tensor("generated", generated, ("N", "C", "H", "W")).shape
    tensor("prior", prior, tuple(generated.shape), generated.device)
    tensor("confidence", confidence, (n, height, width), generated.device)
    expect(isinstance(weight, int | float) and 0 <= weight <= 1, "weight", "a number in [0, 1]", weight)
    expect(isinstance(feather_px, int) and 0 <= feather_px <= 64, "feather_px", "an integer in [0, 64]", feather_px)
    option("rule", rule, ("feather", "multiband"))
    settings = (float(weight), feather_px, rule)
    outputs = [(tuple(generated.shape), generated.dtype)]
    inputs = (generated, prior, confidence)
    return run("paste", implementation, inputs, settings, outputs, None if out is None else (out,))[0]


def to_model(
    surface: Tensor,  # RGB uint8 [N, 3, H, W]; or luma [N, H, W], uint8 (NV12) or uint16 (P010)
    chroma: Tensor | None = None,  # [N, ceil(H / 2), ceil(W / 2), 2] (Cb, Cr), luma's dtype
    *,
    matrix: Literal["bt601", "bt709", "bt2020"] = "bt709",
    full_range: bool = False,
    size: tuple[int, int] | None = None,
    pad_to: int = 1,
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Tensor:  # [N, 3, H', W'] in [-1, 1]
    """A decoded surface becomes the model's picture: colour, resize to `size` = (height, width), pad.

    RGB is v / 127.5 - 1 (matrix and range do not matter). Chroma is sited left and interpolated bilinearly. Resizing is
    linear, with a triangle as wide as the scale when shrinking. The right and bottom borders are repeated up to
    multiples of `pad_to`. Packed RGB [N, H, W, 3] may be given as `.permute(0, 3, 1, 2)`: strides are followed.
    """
    if chroma is None:
        n, _, height, width = tensor("surface", surface, ("N", 3, "H", "W"), None, (torch.uint8,)).shape
    else:
        n, height, width = tensor("surface", surface, ("N", "H", "W"), None, (torch.uint8, torch.uint16)).shape
        small = (n, (height + 1) // 2, (width + 1) // 2, 2)
        tensor("chroma", chroma, small, surface.device, (surface.dtype,))
    option("matrix", matrix, LUMA_WEIGHTS)
    option("dtype", dtype, FLOATS)
    positive("pad_to", pad_to)
    to_height, to_width = (height, width) if size is None else size
    positive("size[0]", to_height)
    positive("size[1]", to_width)
    padded = (n, 3, -(-to_height // pad_to) * pad_to, -(-to_width // pad_to) * pad_to)
    settings = (matrix, bool(full_range), (to_height, to_width), pad_to, dtype)
    outs = None if out is None else (out,)
    return run("to_model", implementation, (surface, chroma), settings, [(padded, dtype)], outs)[0]


def from_model(
    image: Tensor,  # [N, 3, H', W'] in [-1, 1]
    *,
    layout: Literal["rgb", "nv12", "p010"] = "rgb",
    matrix: Literal["bt601", "bt709", "bt2020"] = "bt709",
    full_range: bool = False,
    size: tuple[int, int] | None = None,
    out: Tensor | tuple[Tensor, Tensor] | None = None,
    implementation: Implementation = "auto",
) -> Tensor | tuple[Tensor, Tensor]:  # RGB uint8 [N, 3, H, W]; or luma [N, H, W] and chroma [N, h, w, 2]
    """The model's picture becomes a surface: cropped to the top left `size`, rounded to nearest, clamped.

    Half rounds upwards; NaN is stored as black. "nv12" (uint8) and "p010" (uint16) give (luma, chroma); chroma is sited
    left, filtered 1 2 1 across and averaged over two rows.
    """
    n, _, padded_height, padded_width = tensor("image", image, ("N", 3, "H", "W")).shape
    option("layout", layout, ("rgb", "nv12", "p010"))
    option("matrix", matrix, LUMA_WEIGHTS)
    height, width = (padded_height, padded_width) if size is None else size
    expect(
        1 <= height <= padded_height and 1 <= width <= padded_width, "size", f"within {list(image.shape)}", str(size)
    )
    outputs: list[Output] = [((n, 3, height, width), torch.uint8)]
    if layout != "rgb":
        stored = torch.uint8 if layout == "nv12" else torch.uint16
        outputs = [((n, height, width), stored), ((n, (height + 1) // 2, (width + 1) // 2, 2), stored)]
    outs = (out,) if isinstance(out, Tensor) else out
    settings = (layout, matrix, bool(full_range), (height, width))
    results = run("from_model", implementation, (image,), settings, outputs, outs)
    return results[0] if layout == "rgb" else (results[0], results[1])
