"""Training squares: crops of photographs, paintings and clip frames, with their four stylised twins.

A shard is one uint8 file (SHARD, 5, 256, 256, 3) of RGB pictures, in the order photo, then STYLES. Everything about
square number i comes from (seed, i), so shards can be made in any order and by any number of processes.
"""

import fnmatch
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import av
import cv2
import numpy as np

from ..errors import UsageError
from .stylise import STYLES, layout_noise, stylise

SIZE = 256
SHARD = 128
HELD_OUT = ("flower*", "big-buck-bunny*", "people-static-camera*", "bbb_*")
PICTURE_SHARES = {"photos": 0.38, "clips": 0.30, "paintings": 0.26, "plain": 0.06}


def is_held_out(path: Path) -> bool:
    """True for the clips that only measure the painter; these may never train it."""
    return any(fnmatch.fnmatch(path.name.lower(), pattern) for pattern in HELD_OUT)


def find_sources(data: Path) -> dict[str, list[Path]]:
    """Picture and clip files by kind, sorted, without the held-out ones.

    The folder holds photos/, paintings/ and clips/. Raises UsageError where one of them has nothing to train on.
    """
    found = {}
    for kind, endings in {"photos": (".jpg",), "paintings": (".jpg",), "clips": (".mp4", ".mkv", ".webm")}.items():
        paths = sorted(p for p in (data / kind).rglob("*") if p.suffix in endings and not is_held_out(p))
        if not paths:
            raise UsageError(
                f"{data / kind} holds nothing to train on ({', '.join(endings)}); --data is a folder with photos, "
                "paintings and clips."
            )
        found[kind] = paths
    return found


def read_picture(path: Path) -> np.ndarray:
    """RGB uint8 (H, W, 3). Raises ValueError for a held-out name or an unreadable file."""
    refuse_held_out(path)
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"{path} is not a readable picture")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def read_frames(path: Path, count: int) -> list[np.ndarray]:
    """About count frames spread evenly over a clip, RGB uint8. Raises ValueError for a held-out name."""
    refuse_held_out(path)
    return spread_frames(path, count)


def refuse_held_out(path: Path) -> None:
    if is_held_out(path):
        raise ValueError(f"{path.name} is held out from training")


def spread_frames(path: Path, count: int, first: int = 0, stop: int | None = None) -> list[np.ndarray]:
    """About count frames, evenly from frame number first up to stop (not included), RGB uint8 (H, W, 3)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stop = stop or stream.frames or sum(1 for _ in container.decode(stream))
        container.seek(0)
        step = max(1, (stop - first) // count)
        wanted = range(first, stop, step)
        return [
            frame.to_ndarray(format="rgb24")
            for number, frame in enumerate(container.decode(stream))
            if number in wanted[:count]
        ]


def square(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random crop scaled to (256, 256, 3), perhaps mirrored, perhaps with a colour cast or another exposure."""
    height, width = picture.shape[:2]
    side = int(min(height, width) * generator.uniform(0.5, 1.0))
    side = max(side, min(SIZE, height, width))
    top, left = generator.integers(height - side + 1), generator.integers(width - side + 1)
    crop = picture[top : top + side, left : left + side]
    crop = cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_AREA if side >= SIZE else cv2.INTER_CUBIC)
    if generator.random() < 0.5:
        crop = crop[:, ::-1]
    if generator.random() < 0.45:
        gain = generator.uniform(0.75, 1.15) * generator.uniform(0.85, 1.15, 3)
        crop = 255 * np.clip(crop / 255.0 * gain, 0, 1) ** generator.uniform(0.75, 1.3)
    return np.ascontiguousarray(crop).astype(np.uint8)


def plain_square(generator: np.random.Generator) -> np.ndarray:
    """A smooth two-colour gradient with a few hard-edged bars and discs: walls, skies, table legs, as (256, 256, 3)."""
    ends = generator.uniform(20, 255, (2, 3))
    angle = generator.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE - 0.5
    slope = np.clip(0.5 + generator.uniform(0, 1) * (np.cos(angle) * x + np.sin(angle) * y), 0, 1)[..., None]
    picture = ends[0] + slope * (ends[1] - ends[0])
    for _ in range(generator.integers(0, 6)):
        colour = generator.uniform(0, 255, 3).tolist()
        start, end = generator.integers(0, SIZE, (2, 2)).tolist()
        if generator.random() < 0.6:
            cv2.line(picture, start, end, colour, int(generator.integers(2, 24)), cv2.LINE_AA)
        else:
            cv2.circle(picture, start, int(generator.integers(6, 60)), colour, -1, cv2.LINE_AA)
    noisy: np.ndarray = np.clip(picture + generator.normal(0, 1.5, picture.shape), 0, 255)
    return noisy.astype(np.uint8)


class SquareMaker:
    """Makes square number i of a seed; keeps the clip frames in memory, reads pictures as needed."""

    def __init__(self, data: Path, seed: int, frames_per_clip: int = 48):
        self.sources = find_sources(data)
        self.seed = seed
        self.frames = [frame for path in self.sources["clips"] for frame in read_frames(path, frames_per_clip)]

    def photo(self, index: int) -> np.ndarray:
        """The unstylised square, uint8 (256, 256, 3)."""
        generator = np.random.default_rng((self.seed, index))
        kind = generator.choice(list(PICTURE_SHARES), p=list(PICTURE_SHARES.values()))
        if kind == "plain":
            return plain_square(generator)
        if kind == "clips":
            return square(self.frames[generator.integers(len(self.frames))], generator)
        paths = self.sources[kind]
        return square(read_picture(paths[generator.integers(len(paths))]), generator)

    def with_styles(self, index: int) -> np.ndarray:
        """The square and its stylised twins, uint8 (5, 256, 256, 3); layouts from square_noise(seed, index, style)."""
        photo = self.photo(index)
        twins = [stylise(photo, style, square_noise(self.seed, index, k)) for k, style in enumerate(STYLES)]
        return np.stack([photo, *twins])


def square_noise(seed: int, index: int, style: int) -> np.ndarray:
    """The noise that lays out one stylised square, float32 (8, 32, 32); the denoiser is trained with the same array."""
    return layout_noise((seed, index, style), SIZE, SIZE)


def shard_path(work: Path, number: int) -> Path:
    return work / "squares" / f"{number:04d}.npy"


def make_shards(data: Path, work: Path, seed: int, numbers: list[int]) -> None:
    """Write the missing shards of the given numbers. Safe to stop: a file appears only when whole."""
    cv2.setNumThreads(1)
    maker = None
    for number in numbers:
        path = shard_path(work, number)
        if path.exists():
            continue
        maker = maker or SquareMaker(data, seed)
        squares = np.stack([maker.with_styles(number * SHARD + i) for i in range(SHARD)])
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        with unfinished.open("wb") as file:
            np.save(file, squares)
        unfinished.replace(path)


def prepare_squares(data: Path, work: Path, seed: int, shards: int, processes: int = 1) -> None:
    """Render all squares of a training run to work/squares, in parallel where asked."""
    numbers = list(range(shards))
    if processes == 1:
        make_shards(data, work, seed, numbers)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        shares = [pool.submit(make_shards, data, work, seed, numbers[k::processes]) for k in range(processes)]
        for share in shares:
            share.result()


def load_shard(work: Path, number: int) -> np.ndarray:
    """One shard as a memory map, uint8 (128, 5, 256, 256, 3)."""
    shard: np.ndarray = np.load(shard_path(work, number), mmap_mode="r")
    return shard
