"""The painter's numbers on held-out clips: sharpness, style, faithfulness, flicker and speed, through stock diffusers.

Pictures are RGB uint8 (256, 256, 3): the middle square of a frame, scaled.
"""

import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from ..diffusion.loading import quiet
from ..flow.dis import search
from .autoencoder import to_signal
from .classifier import classify, kept_classifier
from .data import SIZE, spread_frames
from .export import export_checkpoint
from .paths import KINDS
from .stylise import STYLES, layout_noise, stylise

# clip, first frame: after fades, and where people are in the picture
CLIPS = {"flower.mp4": 0, "big-buck-bunny-480p.mp4": 60, "people-static-camera.mp4": 300}
MOVING = {"big-buck-bunny-480p.mp4": 130, "people-static-camera.mp4": 600}
FRAMES_PER_CLIP = 8
SEED = 7


def middle_square(frame: np.ndarray, size: int = SIZE) -> np.ndarray:
    """The largest centred square of a frame, scaled to (size, size, 3)."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = np.ascontiguousarray(frame[top : top + side, left : left + side])
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)


def paint(
    pipeline: StableDiffusionImg2ImgPipeline,
    picture: np.ndarray,
    prompt: str,
    *,
    strength: float = 0.5,
    steps: int = 8,
    scale: float = 2.0,
    seed: int = SEED,
) -> np.ndarray:
    """One picture through the stock pipeline, same size and type; int(steps * strength) evaluations."""
    result = pipeline(
        prompt=prompt,
        image=Image.fromarray(picture),
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=scale,
        generator=torch.Generator().manual_seed(seed),
    )
    return np.asarray(result.images[0])


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 pictures in dB."""
    return float(10 * np.log10(255**2 / np.mean((first.astype(np.float64) - second) ** 2)))


def gradient_energy(pictures: np.ndarray) -> float:
    """Mean squared difference of neighbouring grey values, levels squared, of (N, H, W, 3)."""
    grey = pictures.astype(np.float64).mean(3)
    return float((np.diff(grey, axis=1) ** 2).mean() + (np.diff(grey, axis=2) ** 2).mean())


def low_frequency_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of the 32 x 32 grey thumbnails of two pictures."""
    small = [cv2.resize(p.astype(np.float32).mean(2), (32, 32), interpolation=cv2.INTER_AREA) for p in (first, second)]
    return float(np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1])


def warp_errors(sources: list[np.ndarray], results: list[np.ndarray]) -> tuple[float, float]:
    """Mean |I(t+1) - warp I(t)| of sources and of results in levels, along the sources' DIS flow, where the flow
    there and back agree within a pixel."""
    grey = [np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8) for picture in sources]
    y, x = np.mgrid[0 : grey[0].shape[0], 0 : grey[0].shape[1]].astype(np.float32)
    errors = []
    for t in range(len(sources) - 1):
        back, forth = search(grey[t + 1], grey[t], "medium"), search(grey[t], grey[t + 1], "medium")
        places = (x + back[..., 0], y + back[..., 1])
        returned = back + cv2.remap(forth, *places, cv2.INTER_LINEAR)
        agree = np.linalg.norm(returned, axis=2) < 1
        for pictures in (sources, results):
            warped = cv2.remap(pictures[t], *places, cv2.INTER_LINEAR).astype(np.float32)
            errors.append(np.abs(warped - pictures[t + 1])[agree].mean())
    return float(np.mean(errors[::2])), float(np.mean(errors[1::2]))


def milliseconds_per_frame(model: Path, picture: np.ndarray) -> float:
    """Median time of one picture in bf16 without guidance, four evaluations, in the threads that torch has."""
    pipeline = load_pipeline(model, torch.bfloat16)
    times = []
    for _ in range(8):
        began = time.perf_counter()
        paint(pipeline, picture, "oil painting", scale=1.0)
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times[1:]))


def load_pipeline(model: Path, dtype: torch.dtype = torch.float32) -> StableDiffusionImg2ImgPipeline:
    with quiet():
        pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(model, safety_checker=None, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measure_autoencoder(pipeline: StableDiffusionImg2ImgPipeline, frames: dict[str, np.ndarray]) -> dict[str, float]:
    """PSNR in dB of each clip's frames through the autoencoder, and their mean."""
    values = {}
    for clip, pictures in frames.items():
        with torch.no_grad():
            restored = pipeline.vae.decoder(pipeline.vae.encoder(to_signal(pictures))).clamp(-1, 1)
        restored = ((restored.permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().astype(np.uint8)
        values[clip] = round(float(np.mean([psnr(a, b) for a, b in zip(pictures, restored, strict=True)])), 2)
    return {**values, "mean": round(float(np.mean(list(values.values()))), 2)}


def measure_styles(
    pipeline: StableDiffusionImg2ImgPipeline, sources: np.ndarray, classifier: torch.nn.Module
) -> dict[str, dict[str, float | dict[str, int]]]:
    """Per style: the classifier's hit rate on true and generated pictures, gradient energy ratio, correlation."""
    report: dict[str, dict[str, float | dict[str, int]]] = {}
    for number, style in enumerate(STYLES, 1):
        true = np.stack([stylise(p, style, layout_noise((SEED, i), *p.shape[:2])) for i, p in enumerate(sources)])
        painted = np.stack([paint(pipeline, picture, style) for picture in sources])
        correlations = [low_frequency_correlation(a, b) for a, b in zip(sources, painted, strict=True)]
        report[style] = {
            "classifier_on_true": round(float((classify(classifier, true) == number).mean()), 3),
            "agreement": round(float((classify(classifier, painted) == number).mean()), 3),
            "gradient_energy_ratio": round(gradient_energy(painted) / gradient_energy(true), 3),
            "low_frequency_correlation": round(float(np.mean(correlations)), 3),
            "taken_for": {KINDS[k]: int((classify(classifier, painted) == k).sum()) for k in range(len(KINDS))},
        }
    return report


def measure_flicker(pipeline: StableDiffusionImg2ImgPipeline, clips: Path) -> dict[str, dict[str, float]]:
    """Warp error of fixed-noise results over that of the source, six neighbouring frames of each moving clip."""
    report: dict[str, dict[str, float]] = {}
    for clip, first in MOVING.items():
        sources = [middle_square(frame) for frame in spread_frames(clips / clip, 6, first, first + 6)]
        report[clip] = {}
        for style in STYLES:
            source, result = warp_errors(sources, [paint(pipeline, picture, style) for picture in sources])
            report[clip][style] = round(result / source, 2)
        report[clip]["source_levels"] = round(source, 2)
    return report


def held_out_frames(data: Path, per_clip: int) -> dict[str, np.ndarray]:
    """Frames of each held-out clip, uint8 (per_clip, 256, 256, 3)."""
    return {
        clip: np.stack([middle_square(frame) for frame in spread_frames(data / "clips" / clip, per_clip, first)])
        for clip, first in CLIPS.items()
    }


def log_quality(data: Path, work: Path, per_clip: int = 2) -> dict[str, float]:
    """Export the last checkpoint to work/snapshot, measure it on a few frames and append a line to
    work/quality.jsonl: step, agreement, gradient energy ratio and low-frequency correlation of each style."""
    torch.set_num_threads(1)
    step = export_checkpoint(work, work / "snapshot")
    pipeline = load_pipeline(work / "snapshot")
    sources = np.concatenate(list(held_out_frames(data, per_clip).values()))
    report = measure_styles(pipeline, sources, kept_classifier(work, pipeline.vae))
    short = {"agreement": "agreement", "gradient_energy_ratio": "energy", "low_frequency_correlation": "low"}
    line = {"step": float(step)}
    for style, values in report.items():
        line |= {f"{short[name]} {style}": float(values[name]) for name in short}  # type: ignore[arg-type]
    with (work / "quality.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def measure_painter(model: Path, data: Path, work: Path, to: Path) -> dict[str, object]:
    """All numbers of a model folder as a JSON file: strength .5, 8 steps (4 evaluations), CFG 2, one thread.

    data holds clips/ with the held-out clips, work the squares that train the style classifier.
    """
    torch.set_num_threads(1)
    clips = data / "clips"
    frames = held_out_frames(data, FRAMES_PER_CLIP)
    sources = np.concatenate(list(frames.values()))
    pipeline = load_pipeline(model)
    classifier = kept_classifier(work, pipeline.vae)
    back = [paint(pipeline, picture, "photo", strength=0.3, steps=14) for picture in sources]
    report = {
        "frames": len(sources),
        "autoencoder_psnr": measure_autoencoder(pipeline, frames),
        "styles": measure_styles(pipeline, sources, classifier),
        "classifier_on_photos": round(float((classify(classifier, sources) == 0).mean()), 3),
        "photo_psnr_strength_0.3": round(float(np.mean([psnr(a, b) for a, b in zip(sources, back, strict=True)])), 2),
        "fixed_noise_warp_error_ratio": measure_flicker(pipeline, clips),
        "milliseconds_256_bf16_cfg1": round(milliseconds_per_frame(model, sources[0]), 1),
        "megabytes": round(sum(f.stat().st_size for f in model.rglob("*") if f.is_file()) / 1e6, 2),
    }
    to.write_text(json.dumps(report, indent=2) + "\n")
    return report
