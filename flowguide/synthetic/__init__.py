"""Scenes whose optical flow and occlusion are known exactly, made of moving layers by our own code, with no asset.

`demo` is a small landscape film to look at and to paint, `write_demo_clip` writes it, `long_take` is one shot of it;
`translation`, `zoom`, `rotation`, `static` and `crossing` are one motion each, for tests.
"""

from .film import demo, long_take, write_demo_clip
from .motions import crossing, rotation, static, translation, zoom
from .scene import Layer, Scene, Shot

__all__ = [
    "Layer",
    "Scene",
    "Shot",
    "crossing",
    "demo",
    "long_take",
    "rotation",
    "static",
    "translation",
    "write_demo_clip",
    "zoom",
]
