"""flowguide-flow as an ONNX file of one size, for `onnx:` and for any other runtime."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import BackendMissing, UsageError
from ..flow.flowguide_flow import right_within
from ..flow.network import MULTIPLE, FlowNetwork

OPSET = 18
OUTPUTS = ("flow", "confidence", "flow_back", "confidence_back")
BESIDE = f"""inputs = ["first", "second"]
output = "flow"
colours = "rgb"
black = 0.0
white = 255.0
multiple = {MULTIPLE}
"""


class _Flat(nn.Module):
    """Pictures [1, 3, H, W] in 0..255 -> flow [1, 2, H, W] and confidence [1, 1, H, W], both ways."""

    def __init__(self, network: FlowNetwork):
        super().__init__()
        self.network = network

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found = self.network(first, second)
        confidence = right_within(found.log_scale) * found.visible.sigmoid()
        return found.uv[:1], confidence[:1], found.uv[1:], confidence[1:]


def export_flow(network: FlowNetwork, path: Path, size: tuple[int, int]) -> None:
    """Write the network for pictures of `size` = (height, width) to `path`, and what it expects beside it, as TOML.

    Raises UsageError for a size that is no multiple of MULTIPLE, BackendMissing without onnx.
    """
    if any(side < 2 * MULTIPLE or side % MULTIPLE for side in size):
        raise UsageError(
            f"Both sides should be multiples of {MULTIPLE} from {2 * MULTIPLE} on, got {size[0]}x{size[1]}."
        )
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BackendMissing("Writing ONNX files needs onnx: pip install 'flowguide[onnx]'.") from error
    pictures = (torch.zeros(1, 3, *size), torch.zeros(1, 3, *size))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Flat(network).eval(),
            pictures,
            str(path),
            input_names=["first", "second"],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    path.with_suffix(".toml").write_text(BESIDE)
