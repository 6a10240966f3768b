"""Metrics against clips whose answer is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from textures import numbers, panned, texture

from flowguide.errors import UsageError
from flowguide.flow import TrueFlow
from flowguide.measures import laplacian_energy, luma, ssim
from flowguide.metrics import SOURCE, measure, metric_estimator, resized
from flowguide.synthetic import crossing
from flowguide.types import Flow, Frame

SIZE = (96, 150)


class KnownPan:
    """The true flow of a clip that moves by whole pixels: an estimator that does not estimate."""

    name = "truth"

    def __init__(self, right: int, down: int):
        self.right, self.down = right, down

    def __call__(self, at: Frame, to: Frame) -> Flow:
        step = torch.tensor([self.right, self.down]) * float(to.index - at.index)
        uv = step.view(2, 1, 1).expand(2, *at.size).contiguous()
        y, x = torch.meshgrid(torch.arange(at.size[0]), torch.arange(at.size[1]), indexing="ij")
        inside = (x + uv[0] >= 0) & (x + uv[0] <= at.size[1] - 1) & (y + uv[1] >= 0) & (y + uv[1] <= at.size[0] - 1)
        return Flow(uv, at.index, to.index, inside.float())

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        return self(at, to), self(to, at)


def changed(frames: list[Frame], change) -> list[Frame]:
    return [
        Frame(change(f.rgb.float(), i).round().clamp(0, 255).to(torch.uint8), f.index) for i, f in enumerate(frames)
    ]


@pytest.fixture(scope="module")
def pan() -> list[Frame]:
    return panned(texture(140, 220, 1), SIZE, 14, 3, 2)


def flickering(amplitude: float):
    """Brighter and darker by `amplitude` in turn."""
    return lambda rgb, i: rgb + (amplitude if i % 2 else -amplitude)


def noisy(deviation: float, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda rgb, i: rgb + deviation * torch.randn(rgb.shape, generator=generator)


def test_a_translated_clip_has_no_warp_error(pan):
    report = measure(pan, {"copy": pan}, lags=(1, 4, "first"), estimator=KnownPan(3, 2))
    for clip in report.clips:
        for error in clip.warp_error.values():
            assert error.l1 == error.rmse == 0.0
    assert report.frames == 14
    assert report.shots == [0]
    assert report["copy"].warp_error[1].pairs == 13
    assert report["copy"].warp_error[4].pairs == 10
    assert report["copy"].warp_error["first"].pairs == 13


def test_the_flow_points_the_right_way_on_both_axes(pan):
    right = measure(pan, {}, estimator=KnownPan(3, 2), lags=(1,))[SOURCE].warp_error[1].l1
    for wrong in ((-3, -2), (2, 3), (-3, 2), (3, -2)):
        assert measure(pan, {}, estimator=KnownPan(*wrong), lags=(1,))[SOURCE].warp_error[1].l1 > right + 5


def test_flicker_of_known_size_is_measured_exactly(pan):
    grey = changed(pan, lambda rgb, i: 0.5 * rgb + 60)
    report = measure(grey, {"flicker": changed(grey, flickering(5))}, estimator=KnownPan(3, 2), lags=(1, 2))
    assert report["flicker"].warp_error[1].l1 == pytest.approx(10)
    assert report["flicker"].warp_error[1].rmse == pytest.approx(10)
    assert report["flicker"].warp_error[2].l1 == 0
    assert numbers(report["flicker"].warp_error[1].curve).tolist() == pytest.approx([10] * 13)
    assert report["flicker"].warp_error[1].curve[0] is None


@pytest.mark.parametrize("estimator", ["dis", "farneback"])
def test_estimated_flow_sees_little_error_in_a_translated_clip(pan, estimator):
    report = measure(pan[:6], {"noisy": changed(pan[:6], noisy(12))}, estimator=estimator, lags=(1,))
    floor, error = report[SOURCE].warp_error[1], report["noisy"].warp_error[1]
    assert floor.l1 < 2
    assert error.l1 == pytest.approx(12 * 2 / math.sqrt(math.pi), rel=0.25)  # E|n1 - n2|, less where interpolated
    assert error.rmse > error.l1
    assert {row["estimator"] for row in report.rows()} == {"dis-medium" if estimator == "dis" else "farneback"}


def test_pairs_across_a_cut_are_left_out(pan):
    scenes = pan[:5] + [Frame(255 - f.rgb, f.index) for f in panned(texture(140, 220, 7), SIZE, 6, 3, 2)]
    frames = [Frame(f.rgb, i) for i, f in enumerate(scenes)]
    report = measure(frames, {}, estimator=KnownPan(3, 2), lags=(1, 4, "first"))
    assert report.shots == [0, 5]
    assert [report[SOURCE].warp_error[lag].pairs for lag in (1, 4, "first")] == [4 + 5, 1 + 2, 4 + 5]
    assert report[SOURCE].warp_error["first"].l1 == 0.0
    assert report[SOURCE].warp_error[1].curve[5] is None


def test_blur_shows_as_lost_sharpness(pan):
    blurred = changed(pan, lambda rgb, i: torch.nn.functional.avg_pool2d(rgb, 3, 1, 1, count_include_pad=False))
    report = measure(pan, {"plain": pan, "blurred": blurred}, estimator=KnownPan(3, 2), unguided="plain")
    assert report["plain"].sharpness == 1
    assert report["blurred"].sharpness < 0.5
    assert report[SOURCE].sharpness == 1


def test_flicker_counts_static_pixels_only():
    still = [Frame(texture(*SIZE, 2), i) for i in range(6)]
    moving = panned(texture(140, 220, 1), SIZE, 6, 3, 2)
    half = [
        Frame(torch.cat([s.rgb[:, :, :75], m.rgb[:, :, 75:]], 2), s.index) for s, m in zip(still, moving, strict=True)
    ]
    report = measure(half, {"flicker": changed(half, lambda rgb, i: 0.5 * rgb + 60 + i % 2 * 4)}, lags=(1,))
    assert report[SOURCE].flicker < 0.2
    assert report["flicker"].flicker == pytest.approx(4, abs=0.3)
    assert measure(moving, {}, lags=(1,))[SOURCE].flicker is None


def test_fidelity_forgives_flicker_and_not_another_picture(pan):
    still = [Frame(pan[0].rgb, i) for i in range(16)]
    grey = changed(still, lambda rgb, i: 0.5 * rgb + 60)
    clips = {
        "plain": changed(grey, noisy(20, 1)),
        "other noise": changed(grey, noisy(20, 2)),
        "other picture": changed([Frame(texture(*SIZE, 5), i) for i in range(16)], lambda rgb, i: 0.5 * rgb + 60),
    }
    report = measure(grey, clips, estimator=KnownPan(0, 0), unguided="plain")
    assert report["other noise"].psnr_db == pytest.approx(20 * math.log10(255 / (20 * math.sqrt(2 / 16))), abs=0.3)
    single = ssim(clips["plain"][0].rgb.float(), clips["other noise"][0].rgb.float())
    assert report["other noise"].ssim > single + 0.3
    assert report["other picture"].psnr_db < 20
    assert report["other picture"].ssim < report["other noise"].ssim - 0.1
    assert report["plain"].psnr_db is None


def test_colour_drift_is_the_distance_the_mean_colour_moves(pan):
    drifting = changed(pan, lambda rgb, i: 0.5 * rgb + 40 + torch.tensor([3.0, 0.0, 4.0]).view(3, 1, 1) * i)
    plain = changed(pan, lambda rgb, i: 0.5 * rgb + 40)
    offset = changed(pan, lambda rgb, i: 0.5 * rgb + 60)
    clips = {"plain": plain, "drifting": drifting, "offset": offset}
    report = measure(pan, clips, estimator=KnownPan(3, 2), unguided="plain")
    assert report["drifting"].colour_drift == pytest.approx(5 * 11, rel=0.02)  # quarters of 3 frames, 11 frames apart
    assert report["offset"].colour_drift == pytest.approx(0, abs=1e-3)


def test_a_ghost_is_the_share_of_the_previous_picture_in_holes(pan):
    class Hole(KnownPan):
        def __call__(self, at: Frame, to: Frame) -> Flow:
            flow = super().__call__(at, to)
            flow.confidence[30:60, 40:90] = 0
            return flow

    plain = changed(pan, noisy(20, 3))
    ghosts = [plain[0]]
    for i in range(1, len(plain)):
        before = ghosts[-1].rgb.float().roll((2, 3), (1, 2))
        ghosts.append(changed([plain[i]], lambda rgb, _, before=before: 0.7 * rgb + 0.3 * before)[0])
    report = measure(pan, {"plain": plain, "ghost": ghosts}, estimator=Hole(3, 2), unguided="plain")
    assert report["ghost"].ghost == pytest.approx(0.3, abs=0.03)
    assert report["plain"].ghost is None


def test_a_calm_clip_has_nothing_to_steady(pan):
    report = measure(pan, {"plain": pan, "guided": pan}, unguided="plain", lags=(1, 2))
    assert report["guided"].note == "nothing to steady at lag 1, 2"
    noise = changed(pan, noisy(25))
    report = measure(pan, {"plain": noise, "guided": pan}, unguided="plain", lags=(1, 2))
    assert report["guided"].note == ""


def test_rows_and_json_hold_everything(pan):
    report = measure(iter(pan[:4]), {"a": iter(pan[:4])}, lags=(1, 8), estimator=KnownPan(3, 2))
    source, row = report.rows()
    assert source["clip"] == SOURCE
    assert (row["clip"], row["estimator"], row["frames"]) == ("a", "truth", 4)
    assert row["e_warp_8"] is None  # the clip is too short for it
    stored = json.loads(report.to_json())
    assert stored["clips"][1]["warp_error"]["1"]["curve"] == [None, 0.0, 0.0, 0.0]


def test_curves_run_over_every_frame_and_mean_what_the_numbers_mean(pan):
    scenes = pan[:8] + [Frame(255 - f.rgb, f.index) for f in panned(texture(140, 220, 7), SIZE, 6, 3, 2)]
    frames = changed([Frame(f.rgb, i) for i, f in enumerate(scenes)], lambda rgb, i: 0.5 * rgb + 60)
    soft = lambda rgb: torch.nn.functional.avg_pool2d(rgb, 3, 1, 1, count_include_pad=False)  # noqa: E731
    blurred_late = changed(frames, lambda rgb, i: soft(rgb) if i >= 8 else rgb)
    redder = changed(frames, lambda rgb, i: rgb + torch.tensor([2.0, 0.0, 0.0]).view(3, 1, 1) * (i if i < 8 else 0))
    clips = {"plain": frames, "blurred late": blurred_late, "redder": redder}
    report = measure(frames, clips, estimator=KnownPan(3, 2), unguided="plain", anchors={"redder": [0, 5, 99]})
    assert report.shots == [0, 8]
    for clip in report.clips:
        assert {len(curve) for curve in clip.curves.values()} == {14}
    sharp = report["blurred late"].curves["sharpness"]
    assert sharp[:8] == [1.0] * 8
    assert max(sharp[8:]) < 0.5
    drift = report["redder"].curves["colour_drift"]
    assert drift[:8] == pytest.approx([abs(2 * i - 1) for i in range(8)], abs=0.02)  # from the mean of frames 0 and 1
    assert drift[8:] == pytest.approx([0] * 6, abs=0.02)
    assert numbers(report["redder"].curves["psnr_db"]).min() > 20
    assert report["blurred late"].curves["ssim"][0] == pytest.approx(1)
    assert report["blurred late"].curves["ssim"][8] < 0.999  # averaging a pan blurs both
    assert set(report["plain"].curves) == {"flicker", "colour_drift"}
    assert report["redder"].anchors == [0, 5]


def test_the_curve_of_flicker_has_gaps_where_a_shot_begins():
    still = changed([Frame(texture(*SIZE, 2), i) for i in range(5)], lambda rgb, i: 0.5 * rgb + 60)
    report = measure(still, {"flicker": changed(still, flickering(2))}, lags=(1,), estimator=KnownPan(0, 0))
    assert report["flicker"].curves["flicker"] == [None, *[pytest.approx(4)] * 4]
    assert report["flicker"].flicker == pytest.approx(4)


def test_the_shortest_clip_ends_the_measurement(pan):
    seen: list[int] = []
    report = measure(pan, {"short": pan[:5]}, estimator=KnownPan(3, 2), on_frame=seen.append)
    assert report.frames == 5
    assert report.ended == ["short"]
    assert seen == [1, 2, 3, 4, 5]
    longer = measure(pan[:5], {"a": pan[:6], "b": pan[:5]}, estimator=KnownPan(3, 2))
    assert longer.ended == [SOURCE, "b"]
    assert measure(pan[:5], {"a": pan[:5]}, estimator=KnownPan(3, 2)).ended == []


def test_a_single_frame_is_measured_without_pairs(pan):
    report = measure(pan[:1], {"one": pan[:1]}, unguided="one")
    assert report["one"].warp_error[1].l1 is None
    assert report["one"].flicker is None


def test_wrong_requests_are_refused_with_a_sentence(pan):
    small = list(resized(pan, (48, 75)))
    with pytest.raises(UsageError, match=r"'small' is 48x75 and the source 96x150 \(height x width\)"):
        measure(pan, {"small": small})
    with pytest.raises(UsageError, match="unguided clip 'plain' is not among the clips: a"):
        measure(pan, {"a": pan}, unguided="plain")
    with pytest.raises(UsageError, match="positive number of frames or 'first', got 0"):
        measure(pan, {}, lags=(0,))
    with pytest.raises(UsageError, match="cannot be named 'source'"):
        measure(pan, {"source": pan})
    with pytest.raises(UsageError, match="nothing to measure"):
        measure(pan, {"empty": []})


def test_a_source_of_another_size_can_be_scaled(pan):
    small = list(resized(pan[:3], (48, 75)))
    assert [f.size for f in small] == [(48, 75)] * 3
    assert [f.index for f in small] == [0, 1, 2]
    assert next(resized(pan, SIZE)) is pan[0]


def test_the_metric_does_not_use_the_estimator_that_guided():
    assert metric_estimator("farneback").name == "dis-medium"
    assert metric_estimator("dis-fast").name == "farneback"


def test_ssim_agrees_with_its_definition():
    generator = np.random.default_rng(0)
    x = generator.uniform(0, 255, (40, 50))
    y = np.clip(x + generator.normal(0, 30, x.shape), 0, 255)
    first, second = (torch.tensor(np.stack([p] * 3), dtype=torch.float32) for p in (x, y))
    assert ssim(first, first) == pytest.approx(1)
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for i in range(5, 35):
        for j in range(5, 45):
            a, b = x[i - 5 : i + 6, j - 5 : j + 6], y[i - 5 : i + 6, j - 5 : j + 6]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            both = (window * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
            values.append(top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    assert ssim(first, second) == pytest.approx(np.mean(values), abs=0.02)  # the definition has no border


def test_laplacian_energy_of_known_pictures():
    ramp = torch.arange(20.0).expand(3, 12, 20)[None]
    assert laplacian_energy(ramp).item() == pytest.approx(0, abs=1e-6)
    dot = torch.zeros(1, 3, 5, 5)
    dot[:, :, 2, 2] = 9
    assert laplacian_energy(dot).item() == pytest.approx((16 + 4) * 81 / 9, rel=1e-5)
    assert laplacian_energy(torch.ones(2, 3, 1, 9)).tolist() == [0, 0]
    assert luma(torch.full((3, 2, 2), 7.0)).max() == pytest.approx(7)


def test_a_scene_of_known_flow_is_steady_by_its_true_flow():
    scene = crossing((96, 150), near=(4, 1), far=(-2, 0), frames=6)
    frames = list(scene.frames())
    dull = changed(frames, lambda rgb, i: 0.5 * rgb + 60)
    clips = {"flicker": changed(dull, flickering(6))}
    report = measure(dull, clips, estimator=TrueFlow(scene.flow), lags=(1, 4, "first"))
    assert {row["estimator"] for row in report.rows()} == {"truth"}
    for error in report[SOURCE].warp_error.values():
        assert error.l1 < 0.5  # edges of layers mix with what is behind them
    assert report["flicker"].warp_error[1].l1 == pytest.approx(12, abs=0.1)
    assert report["flicker"].warp_error[4].l1 < 0.5


def test_estimated_and_true_flow_agree_on_what_flickers():
    scene = crossing((120, 180), near=(3, 1), far=(-2, 0), frames=5)
    frames = list(scene.frames())
    clips = {"flicker": changed(frames, noisy(15))}
    found = {}
    for made in (TrueFlow(scene.flow), metric_estimator("farneback")):
        report = measure(frames, clips, estimator=made, lags=(1,))
        found[made.name] = report["flicker"].warp_error[1].l1
    assert found["dis-medium"] == pytest.approx(found["truth"], rel=0.15)
