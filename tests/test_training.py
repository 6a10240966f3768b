"""The painter's training: stylisers, data, tokenizer, autoencoder start, paths, checkpoints, and the bundled folder."""

import itertools
import json
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel

from flowguide.config import render_config
from flowguide.diffusion.checkpoint import load_checkpoint
from flowguide.diffusion.image_to_image import ImageToImage, Known, NoiseKey
from flowguide.diffusion.model_folders import preset
from flowguide.errors import UsageError
from flowguide.renderer import Renderer
from flowguide.timing import StageClock
from flowguide.training.autoencoder import build_autoencoder, initialise_from_pca, to_signal
from flowguide.training.data import (
    SHARD,
    find_sources,
    is_held_out,
    plain_square,
    read_frames,
    read_picture,
    square,
    square_noise,
)
from flowguide.training.denoiser import Painter, PathTask
from flowguide.training.export import export_painter, load_weights
from flowguide.training.inpainting import build_inpainter, holes
from flowguide.training.loop import Schedule, TrainingLoop
from flowguide.training.paths import PathSampler, few_step_grid, noise_levels, target_velocity
from flowguide.training.plot import plot_losses
from flowguide.training.rollout import guided_velocity, rollout_times
from flowguide.training.stylise import STYLES, layout_noise, peaks, stylise
from flowguide.training.texture import PATCH, LatentTexture, PictureTexture
from flowguide.training.tokenizer import LENGTH, TEMPLATES, build_tokenizer, random_prompt, save_tokenizer
from flowguide.types import Frame

BUNDLED = Path(__file__).parents[1] / "flowguide" / "assets" / "painter"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def scene(seed: int, size: int = 128) -> np.ndarray:
    """Blurred noise and a few shapes, uint8 (size, size, 3)."""
    generator = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(generator.uniform(0, 255, (size, size, 3)).astype(np.float32), (0, 0), 3)
    texture = np.clip((texture - 127) * 4 + 127, 0, 255).astype(np.uint8)
    return cv2.addWeighted(texture, 0.5, cv2.resize(plain_square(generator), (size, size)), 0.5, 0)


# Stylisers


@pytest.mark.parametrize("style", STYLES)
def test_stylise_is_a_function_of_picture_and_noise(style):
    picture = scene(1)
    painted = stylise(picture, style, layout_noise((3,), 128, 128))
    assert painted.shape == picture.shape
    assert painted.dtype == np.uint8
    assert np.array_equal(painted, stylise(picture, style, layout_noise((3,), 128, 128)))
    other = stylise(picture, style, layout_noise((4,), 128, 128))
    assert np.abs(painted.astype(int) - other).mean() > 1, "the layout should follow the noise"
    assert np.abs(painted.astype(int) - picture).mean() > 5, "the picture should change"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_stylise_accepts_flat_pictures_and_odd_aspects(style, level):
    picture = np.full((64, 200, 3), level, np.uint8)
    painted = stylise(picture, style, layout_noise((1,), 64, 200))
    assert painted.shape == picture.shape


@pytest.mark.parametrize("style", STYLES)
def test_layout_moves_with_whole_cells(style):
    """Away from the border, picture and noise moved by a cell give the painting moved by a cell."""
    picture, noise = scene(2, 192), layout_noise((5,), 192, 192)
    painted = stylise(picture, style, noise)
    moved = stylise(np.roll(picture, 8, 1), style, np.roll(noise, 1, 2))
    difference = np.abs(np.roll(painted, 8, 1).astype(int) - moved)[64:-64, 64:-64]
    # the order in which far strokes are drawn may differ
    assert difference.mean() < 3


def test_stylise_refuses_bad_input():
    picture, noise = scene(1), layout_noise((1,), 128, 128)
    with pytest.raises(ValueError, match="unknown style 'fresco'"):
        stylise(picture, "fresco", noise)
    with pytest.raises(ValueError, match="should be uint8"):
        stylise(picture.astype(np.float32), "mosaic", noise)
    with pytest.raises(ValueError, match="noise should be"):
        stylise(picture, "mosaic", noise[:, :-1])


def test_peaks_are_about_a_fifth_of_the_cells_inside_the_picture():
    noise = layout_noise((1,), 512, 512)
    cells, places = peaks(noise[7], noise[5:7], 2.0)
    assert 0.15 < cells.shape[1] / 64**2 < 0.25
    assert places.min() >= 0
    assert places.max() <= 511


# Data


@pytest.mark.parametrize(
    "name",
    ["flower.mp4", "flower-fragmented.mp4", "big-buck-bunny-480p.mp4", "people-static-camera.mp4", "x/bbb_960.webm"],
)
def test_held_out_names_are_refused(name):
    assert is_held_out(Path(name))
    with pytest.raises(ValueError, match="held out"):
        read_frames(Path(name), 3)
    with pytest.raises(ValueError, match="held out"):
        read_picture(Path(name))


def test_sources_leave_held_out_files_aside(tmp_path):
    for name in ("photos/a.jpg", "paintings/b.jpg", "clips/friday.mp4", "clips/flower.mp4", "clips/bbb_1.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in find_sources(tmp_path)["clips"]] == ["friday.mp4"]
    (tmp_path / "photos/a.jpg").unlink()
    with pytest.raises(UsageError, match="photos"):
        find_sources(tmp_path)


@pytest.mark.parametrize("shape", [(90, 300), (256, 256), (1080, 1920)])
def test_squares_have_one_size(shape):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    crop = square(picture, np.random.default_rng(1))
    assert crop.shape == (256, 256, 3)
    assert crop.dtype == np.uint8


# Tokenizer


@pytest.mark.parametrize("text", ["oil painting", "zyxw qué", "watercolor", "a cat", "日本"])
def test_tokenizer_round_trip(text):
    tokenizer = build_tokenizer()
    numbers = tokenizer(text, padding="max_length", max_length=LENGTH, truncation=True).input_ids
    assert len(numbers) == LENGTH
    assert tokenizer.decode(numbers, skip_special_tokens=True).strip() == text


def test_saved_tokenizer_reads_the_same_from_its_old_files(tmp_path):
    from transformers import CLIPTokenizer

    save_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    prompt = "a mosaic of a dog, ünï"
    assert CLIPTokenizer.from_pretrained(tmp_path)(prompt).input_ids == build_tokenizer()(prompt).input_ids


def test_prompts_name_their_style():
    generator = np.random.default_rng(0)
    assert {"oil painting", "ink drawing", "mosaic", "watercolour", "photo"} == set(TEMPLATES)
    for word, style in (
        ("oil", "oil painting"),
        ("ink", "ink drawing"),
        ("mosaic", "mosaic"),
        ("watercol", "watercolour"),
    ):
        assert all(word in random_prompt(style, generator) for _ in range(50))


# Autoencoder


def test_pca_start_beats_the_random_start():
    pictures = to_signal(np.stack([scene(seed) for seed in range(8)]))
    autoencoder = build_autoencoder()

    def psnr() -> float:
        with torch.no_grad():
            error = autoencoder.decoder(autoencoder.encoder(pictures)) - pictures
        return -10 * torch.log10(error.pow(2).mean() / 4).item()

    random_start = psnr()
    initialise_from_pca(autoencoder, pictures)
    assert psnr() > random_start + 5
    assert psnr() > 14
    with torch.no_grad():
        assert autoencoder.encoder(pictures).mean((0, 2, 3)).abs().max() < 0.2, "latents should be centred"


# Paths


def random_latents(seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((SHARD, 5, 8, 32, 32), dtype=np.float32).astype(np.float16)]


def test_target_is_the_usual_velocity_when_both_pictures_are_the_same():
    alpha, sigma = (values[[50, 400, 999]][:, None] for values in noise_levels())
    latent, noise = torch.randn(3, 16, dtype=torch.float64), torch.randn(3, 16, dtype=torch.float64)
    velocity = target_velocity(alpha * latent + sigma * noise, latent, alpha, sigma)
    torch.testing.assert_close(velocity, alpha * noise - sigma * latent, atol=1e-5, rtol=1e-5)


def test_path_is_what_ddim_meets_when_the_answer_is_the_painting():
    """From the photograph at t1, DDIM with the right answer arrives at the sample that training draws at t."""
    from flowguide.training.paths import build_scheduler

    alpha, sigma = noise_levels()
    photo, painting, noise = torch.randn(3, 1, 8, 4, 4)
    scheduler = build_scheduler()
    scheduler.set_timesteps(8)
    times = scheduler.timesteps.tolist()[4:]
    noisy = alpha[times[0]] * photo + sigma[times[0]] * noise
    for time_now, time_next in itertools.pairwise(times):
        velocity = target_velocity(noisy, painting, alpha[time_now], sigma[time_now])
        noisy = scheduler.step(velocity, time_now, noisy).prev_sample
        share = (sigma[time_next] / alpha[time_next]) / (sigma[times[0]] / alpha[times[0]])
        expected = alpha[time_next] * ((1 - share) * painting + share * photo) + sigma[time_next] * noise
        torch.testing.assert_close(noisy, expected, atol=1e-4, rtol=1e-4)


def test_few_step_grid_holds_the_default_use():
    """Strength .5, 8 steps: four evaluations from timestep 499."""
    assert {(499, 499), (499, 374), (499, 249), (499, 124)} <= set(few_step_grid())


def test_samples_depend_on_seed_step_and_number_only():
    first, again = (PathSampler(random_latents(), seed=3).draw(7, 2, 0.5) for _ in range(2))
    assert first.prompt == again.prompt
    assert first.time == again.time
    assert np.array_equal(first.noise, again.noise)
    assert np.array_equal(first.start, again.start)


def test_the_first_evaluation_gets_the_noise_of_the_layout():
    sampler = PathSampler(random_latents(), seed=3, crop=32)
    for number in range(40):
        sample = sampler.draw(0, number, 1.0)
        if sample.share == 1.0 and sample.prompt and not np.array_equal(sample.start, sample.wanted):
            arrays = (square_noise(3, index, k) for index in range(SHARD) for k in range(len(STYLES)))
            assert any(np.array_equal(sample.noise, noise) for noise in arrays)
            return
    pytest.fail("no styled first evaluation among 40 samples")


# Few-step stage


def textured(count: int = 4, shift: int = 0) -> torch.Tensor:
    """Latents with stripes of unit variance, moved by some cells, (count, 8, 24, 24)."""
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, (count, 8, 1, 1))
    y, x = np.mgrid[0:24, 0:24] + shift
    return torch.from_numpy(np.sqrt(2) * np.sin(1.9 * x + 0.8 * y + phases)).float()


def test_texture_is_in_place_and_blur_is_not_it():
    """Another layout of the same texture is nearer than its average, although its squared error is larger."""
    texture = LatentTexture(torch.ones(8))
    here, elsewhere, blur = textured(), textured(shift=5), 0.3 * textured()
    assert texture(here, here).abs().max() == 0
    assert (texture(elsewhere, here) < 0.5 * texture(blur, here)).all()
    assert (elsewhere - here).pow(2).mean() > (blur - here).pow(2).mean()


def test_texture_may_not_wander():
    """The energies are local: texture on the left is not texture on the right."""
    left = textured().clone()
    left[..., 12:] = 0
    assert LatentTexture(torch.ones(8))(left, left.flip(3)).min() > 0.3


def test_a_blurred_picture_is_told_from_a_sharp_one():
    autoencoder = AutoencoderTiny.from_pretrained(BUNDLED / "vae", dtype=torch.float32)
    texture = PictureTexture(autoencoder.decoder, autoencoder.config.scaling_factor)
    pictures = [scene(seed, 96) for seed in range(3)]
    with torch.no_grad():
        sharp, blurred, mirrored = (
            autoencoder.encoder(to_signal(np.stack(group))) * autoencoder.config.scaling_factor
            for group in (
                pictures,
                [cv2.GaussianBlur(picture, (0, 0), 3) for picture in pictures],
                [picture[:, ::-1] for picture in pictures],
            )
        )
    assert texture(sharp, sharp, (0, 0)).max() < 1e-3
    assert (texture(mirrored, sharp, (0, 0)) < 0.7 * texture(blurred, sharp, (0, 0))).all()


def test_rollouts_are_mostly_the_default_use():
    drawn = [rollout_times(np.random.default_rng(number)) for number in range(60)]
    assert sum(times == [499, 374, 249, 124] for times in drawn) > 25
    assert all(times == sorted(times, reverse=True) and len(times) >= 2 for times in drawn)


def test_guidance_trains_the_prompted_half_alone():
    class Echo(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor([1.0, 1.0]))

        def forward(self, noisy, times, tokens):
            return noisy * self.gain.repeat_interleave(len(noisy) // 2)[:, None, None, None]

    echo, noisy = Echo(), torch.randn(2, 8, 4, 4)
    velocity = guided_velocity(echo, noisy, 124, torch.zeros(4, LENGTH, dtype=torch.long), 2.0)
    torch.testing.assert_close(velocity, noisy)
    velocity.sum().backward()
    assert echo.gain.grad[0] != 0
    assert echo.gain.grad[1] == 0


def test_a_rollout_step_has_finite_gradients():
    task = PathTask(random_latents(), build_autoencoder(), seed=1, steps=4, batch=4, crop=PATCH)
    painter = Painter(channels=(16, 16, 16), text_width=16)
    losses = task(painter, 3)
    assert np.isfinite(losses["rollout_texture"].item())
    assert np.isnan(losses["clean_on_path"].item())
    losses["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in painter.parameters())
    assert np.isnan(task(painter, 2)["rollout_texture"].item()), "every second step follows the paths"


# Inpainting sibling


def test_the_sibling_begins_as_the_painter():
    painter = Painter().eval()
    sibling = build_inpainter(painter).eval()
    noisy, times, tokens = torch.randn(1, 8, 8, 8), torch.tensor([300]), torch.zeros(1, LENGTH, dtype=torch.long)
    with torch.no_grad():
        told = sibling(torch.cat([noisy, torch.randn(1, 9, 8, 8)], 1), times, tokens)
        torch.testing.assert_close(told, painter(noisy, times, tokens), atol=1e-5, rtol=1e-4)
    assert not any(weight.requires_grad for weight in sibling.text_encoder.parameters())


def test_holes_are_of_all_sizes():
    shares = [holes(scene(1), np.random.default_rng(seed)).mean() for seed in range(80)]
    assert min(shares) == 0
    assert max(shares) == 1
    assert 0.05 < np.median(shares) < 0.5


# Training loop


def tiny_loop(folder: Path, steps: int = 6) -> TrainingLoop:
    torch.manual_seed(0)
    painter = Painter(channels=(16, 16, 16), text_width=16)
    task = PathTask(random_latents(), build_autoencoder(), seed=1, steps=steps, batch=2, crop=PATCH)
    return TrainingLoop(painter, task, Schedule(steps, 1e-3, warm_up=2), folder, log_every=2)


def test_training_that_stops_and_goes_on_is_bit_equal(tmp_path):
    whole = tiny_loop(tmp_path / "whole")
    assert whole.run(time.monotonic() + 600)
    begun = tiny_loop(tmp_path / "halves")
    for _ in range(3):
        begun.take_step()
    begun.save()
    resumed = tiny_loop(tmp_path / "halves")
    assert resumed.step == 3
    assert resumed.run(time.monotonic() + 600)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for name, value in whole.averaged.items():
        assert torch.equal(value, resumed.averaged[name]), name


def test_a_passed_deadline_saves_and_stops(tmp_path):
    loop = tiny_loop(tmp_path)
    assert not loop.run(time.monotonic() - 1)
    assert loop.checkpoint.exists()
    assert loop.step == 0
    assert not list(tmp_path.glob("*.part"))


def test_steps_on_a_fixed_batch_lower_the_loss(tmp_path):
    loop = tiny_loop(tmp_path, steps=100)
    task = loop.loss_at
    loop.loss_at = lambda painter, step: task(painter, 0)
    losses = [loop.take_step()["loss"] for _ in range(12)]
    assert losses[-1] < losses[0]


def test_schedule_warms_up_and_ends_at_zero():
    schedule = Schedule(1000, 1e-3, warm_up=10)
    assert schedule.rate(0) == pytest.approx(1e-4)
    assert schedule.rate(500) == pytest.approx(1e-3)
    assert schedule.rate(999) == pytest.approx(0, abs=1e-9)


def test_losses_can_be_plotted(tmp_path):
    for stage, name in (("autoencoder", "psnr"), ("denoiser", "clean_at_start")):
        (tmp_path / stage).mkdir()
        lines = [f'{{"step": {step}, "loss": 0.5, "{name}": {step}, "clean_on_path": 1}}' for step in (50, 100)]
        (tmp_path / stage / "log.jsonl").write_text("\n".join(lines))
    plot_losses(tmp_path, tmp_path / "losses.png")
    before = cv2.imread(str(tmp_path / "losses.png"))
    (tmp_path / "quality.jsonl").write_text('{"step": 50, "energy mosaic": 0.4}\n{"step": 100, "energy mosaic": 0.8}\n')
    plot_losses(tmp_path, tmp_path / "losses.png")
    after = cv2.imread(str(tmp_path / "losses.png"))
    assert np.abs(after.astype(int) - before).max() > 100, "the quality over time has its own panel"


# The bundled model


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionImg2ImgPipeline

    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(BUNDLED, safety_checker=None, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_bundled_folder_is_small_and_can_begin_a_training():
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*") if path.is_file()) <= 12e6
    for name in ("vocab.json", "merges.txt"):
        assert (BUNDLED / "tokenizer" / name).exists()
    bundled = json.loads((BUNDLED / "tokenizer" / "vocab.json").read_text())
    assert bundled == build_tokenizer().get_vocab(), "the weights were trained with another vocabulary"
    load_weights(Painter(), BUNDLED)


@pytest.mark.parametrize("name", ["painter", "painter-inpainting"])
def test_a_bundled_folder_names_no_place_of_the_machine_that_trained_it(name):
    for path in BUNDLED.with_name(name).rglob("*.json"):
        assert "_name_or_path" not in path.read_text(), path


def test_what_an_autoencoder_was_loaded_from_is_not_exported(tmp_path):
    AutoencoderTiny.from_pretrained(BUNDLED / "vae").save_pretrained(tmp_path / "vae")
    loaded = AutoencoderTiny.from_pretrained(tmp_path / "vae")
    export_painter(loaded, Painter(), tmp_path / "painter")
    assert str(tmp_path) not in (tmp_path / "painter" / "vae" / "config.json").read_text()


@pytest.mark.parametrize("prompt", ["oil painting", "", "zyxw qué 日本", "a " * 200, "mosaic, ink drawing, photo"])
def test_bundled_model_paints_any_prompt(pipeline, prompt):
    picture = to_signal(scene(3, 64)[None]) / 2 + 0.5
    painted = pipeline(
        prompt=prompt, image=picture, strength=0.5, num_inference_steps=4, guidance_scale=2.0, output_type="np"
    )
    assert painted.images.shape == (1, 64, 64, 3)
    assert np.isfinite(painted.images).all()


@pytest.mark.parametrize(("strength", "scale"), [(1.0, 2.0), (0.5, 0.0), (0.5, 15.0)])
def test_bundled_model_stands_extreme_settings(pipeline, strength, scale):
    picture = to_signal(scene(3, 64)[None, :, :40]) / 2 + 0.5
    painted = pipeline(
        prompt="ink drawing",
        image=picture,
        strength=strength,
        num_inference_steps=4,
        guidance_scale=scale,
        output_type="np",
    )
    assert painted.images.shape == (1, 64, 40, 3)
    assert np.isfinite(painted.images).all()


@pytest.fixture(scope="module")
def bundled():
    return load_checkpoint("painter", torch.float32, torch.device("cpu"))


def render_two(bundled, size: tuple[int, int], **options) -> list[np.ndarray]:
    """Two neighbouring frames (height, width) through flowguide, guided."""
    engine = Renderer(render_config({"noise": "per-frame", **options}), checkpoint=bundled)
    whole = scene(4, max(size) + 8)
    return [np.asarray(engine.step(whole[: size[0], shift : shift + size[1]])) for shift in (0, 4)]


@pytest.mark.parametrize("size", [(64, 64), (64, 200), (131, 67), (96, 160)])
def test_bundled_model_renders_odd_sizes(bundled, size):
    for picture in render_two(bundled, size, prompt="mosaic"):
        assert picture.shape == (*size, 3)
        assert picture.std() > 5, "a flat picture is no painting"


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1024, 1024), (1024, 96)])
def test_bundled_model_renders_large_sizes(bundled, size):
    for picture in render_two(bundled, size, prompt="ink drawing"):
        assert picture.shape == (*size, 3)
        assert picture.std() > 5


@pytest.mark.parametrize("prompt", ["", "a boat at sea", "zyxw qué 日本"])
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_bundled_model_renders_any_prompt_and_strength(bundled, prompt, strength):
    assert all(picture.std() > 5 for picture in render_two(bundled, (64, 64), prompt=prompt, strength=strength))


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5, 15.0])
def test_bundled_model_stands_guidance_scales(bundled, scale):
    """Strong guidance burns colours; what is not a number would be black."""
    painted = render_two(bundled, (64, 64), prompt="watercolour", guidance_scale=scale)[0]
    assert painted.std() > 5


def test_zero_strength_gives_the_source_back(bundled):
    source = scene(4, 72)[:64, :64].astype(float)
    assert np.abs(render_two(bundled, (64, 64), prompt="mosaic", strength=0.0)[0] - source).mean() < 8


@pytest.mark.parametrize("style", STYLES)
def test_presets_are_options_of_a_render(style):
    options = preset("painter", f"A {style.upper()} of a harbour")
    assert render_config(options).strength == options["strength"]
    assert preset("painter", "a harbour") == {}
    assert preset("/some/folder", style) == {}


# The inpainting sibling


@pytest.fixture(scope="module")
def sibling():
    return load_checkpoint("painter-inpainting", torch.float32, torch.device("cpu"))


def test_the_sibling_is_a_unet_alone_and_small(sibling):
    folder = BUNDLED.with_name("painter-inpainting")
    assert sibling.inpainting
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"unet"}
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 11e6
    assert UNet2DConditionModel.from_pretrained(folder / "unet").config.in_channels == 17


def test_the_sibling_keeps_what_it_is_shown(sibling, bundled):
    """Outside the hole its picture is nearer to the shown painting, another layout than its noise's, than the
    painter's own picture is."""
    config = render_config(prompt="mosaic", seed=5)
    source = scene(6)
    shown = stylise(source, "mosaic", layout_noise((8,), 128, 128))
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 80:] = 1
    picture, painted = to_signal(source[None]), to_signal(shown[None])
    errors = []
    for checkpoint, known in ((sibling, Known(painted, mask)), (bundled, None)):
        model = ImageToImage(checkpoint, config, StageClock())
        made = model.decode(model.denoise(model.encode(picture), NoiseKey(0, 0), picture=picture, known=known))
        errors.append((made - painted)[..., :72].pow(2).mean().item())
    assert errors[0] < 0.7 * errors[1]


def test_anchors_take_the_sibling(sibling):
    engine = Renderer(render_config(prompt="ink drawing", strategy="anchors"), checkpoint=sibling)
    whole = torch.from_numpy(scene(4, 112)).permute(2, 0, 1)
    frames = [Frame(whole[:, :64, 3 * i : 3 * i + 96].contiguous(), i, i, Fraction(1, 25)) for i in range(4)]
    painted = list(engine(frames))
    assert len(painted) == 4
