"""flowguide: painted, steady video from an image model and optical flow.

    import flowguide
    flowguide.render("clip.mp4", "painted.mp4", prompt="oil painting")

Importing the package loads nothing heavy; each name below is fetched on first use.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ADDRESSES = {
    "ClipInfo": "flowguide.types",
    "ClipReader": "flowguide.video",
    "ClipWriter": "flowguide.video",
    "Flow": "flowguide.types",
    "FlowGuidePipeline": "flowguide.diffusers_pipeline",
    "FlowguideError": "flowguide.errors",
    "Frame": "flowguide.types",
    "Guide": "flowguide.types",
    "RenderConfig": "flowguide.config",
    "RenderReport": "flowguide.runs.clip",
    "Renderer": "flowguide.renderer",
    "Request": "flowguide.runs.request",
    "SteadyConfig": "flowguide.config",
    "Styled": "flowguide.renderer",
    "probe": "flowguide.video",
    "render": "flowguide.runs.clip",
    "render_config": "flowguide.config",
    "render_many": "flowguide.runs.many",
    "steady_clip": "flowguide.runs.steady",
    "steady_config": "flowguide.config",
}

__all__ = sorted(_ADDRESSES)


def __getattr__(name: str) -> Any:
    if name in _ADDRESSES:
        return getattr(import_module(_ADDRESSES[name]), name)
    raise AttributeError(f"module 'flowguide' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
