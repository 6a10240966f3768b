"""Several clips read frame by frame, beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from .types import Frame


class Abreast:
    """The first frames of all clips, then the second ones and so on, up to the end of the shortest."""

    def __init__(self, clips: Mapping[str, Iterable[Frame]]):
        self._clips = clips
        self.ended: list[str] = []
        """Names of the clips that ended before the others; known at the end, and empty where all have one length."""

    def __iter__(self) -> Iterator[tuple[Frame, ...]]:
        streams = {name: iter(frames) for name, frames in self._clips.items()}
        while True:
            found = {name: next(stream, None) for name, stream in streams.items()}
            here = tuple(frame for frame in found.values() if frame is not None)
            if len(here) < len(found):
                self.ended = [name for name, frame in found.items() if frame is None] if here else []
                return
            yield here
