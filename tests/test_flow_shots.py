"""Cuts are found; flashes, fades, fast pans and still pictures are none."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from textures import panned, texture

from flowguide.errors import UsageError
from flowguide.flow.shot_list import read_shots, write_shots
from flowguide.flow.shots import CutDetector, Shot, find_shots
from flowguide.synthetic import demo
from flowguide.types import Frame

SIZE = (108, 192)


def scene(seed: int, frames: int = 12, right: int = 3, down: int = 1) -> list[torch.Tensor]:
    """Pictures of one shot with colours of its own."""
    canvas = texture(SIZE[0] + 60, SIZE[1] + 120, seed)
    tint = torch.tensor([[1.0, 0.55, 0.35], [0.4, 0.8, 1.0], [0.7, 1.0, 0.5], [0.9, 0.9, 0.9]])[seed % 4]
    return [(f.rgb * tint.view(3, 1, 1)).to(torch.uint8) for f in panned(canvas, SIZE, frames, right, down)]


def cuts(pictures: list[torch.Tensor]) -> list[int]:
    detector = CutDetector()
    return [i for i, rgb in enumerate(pictures) if detector.is_cut(Frame(rgb, i))]


def gained(picture: torch.Tensor, gain: float, offset: float = 0.0) -> torch.Tensor:
    return (picture * gain + offset).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_hard_cuts_are_found_where_they_are(seed):
    assert cuts(scene(seed) + scene(seed + 1, 7) + scene(seed + 2, 1) + scene(seed + 3)) == [12, 19, 20]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("flash", ["white", "black", "bright", "burnt", "two frames", "part"])
def test_a_flash_is_no_cut(seed, flash):
    shot = scene(seed)
    made = {
        "white": lambda p: torch.full_like(p, 255),
        "black": lambda p: torch.zeros_like(p),
        "bright": lambda p: gained(p, 1.2, 70),
        "burnt": lambda p: gained(p, 2.5, 90),
        "two frames": lambda p: gained(p, 0.6, 110),
        "part": lambda p: torch.cat([p[:, :60], gained(p[:, 60:], 3.0, 120)], 1),
    }[flash]
    length = 2 if flash == "two frames" else 1
    assert cuts([made(p) if 5 <= i < 5 + length else p for i, p in enumerate(shot)]) == []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("frames", [3, 8, 24])
@pytest.mark.parametrize("level", [0, 255])
def test_a_fade_out_and_in_again_is_no_cut(seed, frames, level):
    shot = scene(seed, 2 * frames + 2, right=1)
    pictures = []
    for i, picture in enumerate(shot):
        share = min(1.0, abs(i - frames) / frames)
        pictures.append(gained(picture, share, (1 - share) * level))
    assert cuts(pictures) == []


def test_a_new_scene_behind_black_is_one_cut():
    black = [torch.zeros(3, *SIZE, dtype=torch.uint8)] * 4
    assert cuts(scene(0) + black + scene(1)) == [16]
    assert cuts(black + scene(1)) == []


@pytest.mark.parametrize("right", [12, 30])
def test_a_fast_pan_is_no_cut(right):
    canvas = texture(SIZE[0], SIZE[1] + 9 * right, 5)
    assert cuts([frame.rgb for frame in panned(canvas, SIZE, 10, right, 0)]) == []


def test_a_still_picture_has_no_cuts():
    assert cuts([scene(2, 1)[0]] * 10) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (64, 1), (9, 500), (700, 8)])
def test_pictures_of_any_size_are_taken(size):
    noise = torch.randint(0, 256, (4, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    detector = CutDetector()
    for i, rgb in enumerate(noise):
        assert detector.is_cut(Frame(rgb, i)) in (True, False)


def test_a_change_of_size_is_a_cut():
    detector = CutDetector()
    assert not detector.is_cut(Frame(texture(90, 160), 0))
    assert detector.is_cut(Frame(texture(160, 90), 1))


def test_the_size_of_the_frames_does_not_matter():
    pictures = scene(0, 4) + scene(1, 4)
    large = [torch.nn.functional.interpolate(p[None].float(), scale_factor=3)[0].to(torch.uint8) for p in pictures]
    assert cuts(large) == cuts(pictures) == [4]


def test_shots_cover_the_clip_without_gaps():
    frames = [Frame(rgb, i) for i, rgb in enumerate(scene(0, 5) + scene(1, 3) + scene(2, 1))]
    assert list(find_shots(frames)) == [Shot(0, 5), Shot(5, 8), Shot(8, 9)]
    assert list(find_shots(frames[:1])) == [Shot(0, 1)]
    assert list(find_shots([])) == []


def test_the_cuts_of_the_demo_are_found():
    scene = demo(size=(144, 240), frames=24)
    assert [shot.first for shot in find_shots(scene.frames())][1:] == scene.cuts


def test_a_list_of_shots_is_written_edited_and_read(tmp_path):
    path = tmp_path / "shots.csv"
    write_shots(path, [Shot(0, 5), Shot(5, 8), Shot(8, 30)], Fraction(24))
    assert path.read_text().splitlines()[:3] == [
        "Scene Number,Start Frame,End Frame,Start Time (seconds)",
        "1,1,5,0.000",
        "2,6,8,0.208",
    ]
    path.write_text(path.read_text().replace("2,6,8,0.208\n", "").replace("3,9,30", "2,10,30"))
    given = read_shots(path)
    blank = torch.zeros(3, 2, 2, dtype=torch.uint8)
    assert [i for i in range(30) if given.is_cut(Frame(blank, i))] == [9]


def test_the_list_of_pyscenedetect_is_read(tmp_path):
    path = tmp_path / "scenes.csv"
    path.write_text(
        "Timecode List:,00:00:11.875,00:00:15.750\n"
        "Scene Number,Start Frame,Start Timecode,Start Time (seconds),End Frame,End Timecode,End Time (seconds)\n"
        "1,1,00:00:00.000,0.000,285,00:00:11.875,11.875\n"
        "2,286,00:00:11.875,11.875,378,00:00:15.750,15.750\n"
        "3,379,00:00:15.750,15.750,720,00:00:30.000,30.000\n"
    )
    given = read_shots(path)
    blank = torch.zeros(3, 2, 2, dtype=torch.uint8)
    assert [i for i in range(720) if given.is_cut(Frame(blank, i))] == [285, 378]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("first,end\n0,5\n", "no line names a column 'Start Frame'"),
        ("Start Frame\n1\nsix\n", "line 3: Start Frame should be a number from 1, got 'six'"),
        ("Start Frame\n1\n6\n6\n", "line 4: shot beginning at 6 does not follow"),
        ("Start Frame\n0\n", "line 2: Start Frame should be a number from 1, got '0'"),
    ],
)
def test_broken_lists_of_shots_are_refused(tmp_path, content, sentence):
    path = tmp_path / "shots.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=sentence):
        read_shots(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_shots(tmp_path / "absent.csv")


CUTS = {
    "big-buck-bunny-480p.mp4": [285, 378, 553],
    "tears-of-steel-battle-clip-medium.webm": [
        *(52, 122, 158, 221, 309, 715, 788, 872, 901, 987, 1127, 1157, 1203, 1234, 1246, 1284, 1345),
        *(1378, 1430, 1472, 1525, 1571, 1618, 1650, 1689),
    ],
    "nasa-many-streams.mp4": [202],
    "flower.mp4": [],
    "friday.mp4": [],
    "chaplin.mp4": [],
    "hand-gesture.mkv": [],
    "cars-static-camera.mp4": [],
}
"""True cuts, found by eye on contact sheets of every candidate."""


@pytest.mark.real
@pytest.mark.parametrize("clip", CUTS)
def test_true_cuts_of_real_clips_are_found_and_no_others(data, clip):
    from flowguide.video import ClipReader

    with ClipReader(data / "clips" / clip) as reader:
        shots = list(find_shots(reader))
    assert [shot.first for shot in shots[1:]] == CUTS[clip]
