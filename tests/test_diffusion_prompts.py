"""Prompts: bracket weights, chunks, schedules over frames, caching."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import save_family

from flowguide.config import read_toml, render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.diffusion.image_to_image import ImageToImage, NoiseKey
from flowguide.diffusion.prompt_text import PromptSchedule, prompt_schedule, weighted
from flowguide.errors import UsageError
from flowguide.timing import StageClock

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint), torch.float32, CPU)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a boat", [("a boat", 1.0)]),
        ("", [("", 1.0)]),
        ("a (red) boat", [("a ", 1.0), ("red", 1.1), (" boat", 1.0)]),
        ("a ((red)) boat", [("a ", 1.0), ("red", 1.21), (" boat", 1.0)]),
        ("a (red:1.3) boat", [("a ", 1.0), ("red", 1.3), (" boat", 1.0)]),
        ("[fog], sun", [("fog", 1 / 1.1), (", sun", 1.0)]),
        ("(a (red:2) boat:0.5)", [("a ", 0.5), ("red", 1.0), (" boat", 0.5)]),
        (r"smile \(open\)", [("smile (open)", 1.0)]),
        ("at 10:30, a (boat", [("at 10:30, a ", 1.0), ("boat", 1.1)]),
        ("a) b] c", [("a) b] c", 1.0)]),
    ],
)
def test_bracket_weights(prompt: str, pieces: list[tuple[str, float]]) -> None:
    found = weighted(prompt)
    assert [text for text, _ in found] == [text for text, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_no_text_is_lost_and_none_stops_the_parser(text: str) -> None:
    plain = "".join(c for c in text if c not in "()[]\\:")
    assert weighted(plain) == [(plain, 1.0)]
    kept = "".join(piece for piece, _ in weighted(text))
    assert all(c in kept for c in plain if not (c.isdigit() or c in "+-. "))


def test_a_prompt_without_weights_is_the_encoders_own(checkpoint: Checkpoint, tiny_checkpoint: Path) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tiny_checkpoint / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(tiny_checkpoint / "text_encoder").eval()
    for text in ("", "a boat", "zyxw qué 絵"):
        ids = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            assert torch.equal(checkpoint.prompts(text).text, encoder(ids)[0])


def test_weights_scale_tokens_and_keep_the_mean(checkpoint: Checkpoint) -> None:
    plain, strong = checkpoint.prompts("a boat").text, checkpoint.prompts("a (boat:1.5)").text
    ratio = (strong / plain)[0]
    assert float(ratio[2:6].mean() / ratio[0].mean()) == pytest.approx(1.5, rel=1e-4)
    if abs(float(plain.mean())) > 1e-3:
        assert float(strong.mean()) == pytest.approx(float(plain.mean()), rel=1e-3)


def test_long_prompts_fill_chunks_side_by_side(checkpoint: Checkpoint) -> None:
    text = "abcde " * 20
    long = checkpoint.prompts(text)
    assert long.text.shape == (1, 2 * 77, 16)
    first, second = checkpoint.prompts("abcde " * 15), checkpoint.prompts("abcde " * 5)
    torch.testing.assert_close(long.text, torch.cat([first.text, second.text], dim=1))
    assert checkpoint.prompts("a", chunks=3).text.shape == (1, 3 * 77, 16)


def test_a_prompt_longer_than_allowed_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="may have 1200 tokens, got 5000"):
        checkpoint.prompts("a " * 5000)


def test_embeddings_are_computed_once(checkpoint: Checkpoint) -> None:
    assert checkpoint.prompts("ink") is checkpoint.prompts("ink")


def test_long_and_short_prompts_meet_in_one_batch(checkpoint: Checkpoint) -> None:
    config = render_config(prompt="abcde " * 20, negative_prompt="fog", guidance_scale=3.0, steps=2)
    model = ImageToImage(checkpoint, config, StageClock())
    start = model.encode(torch.zeros(1, 3, 32, 32))
    assert bool(torch.isfinite(model.denoise(start, NoiseKey(0, 0))).all())


def test_schedules_parse_and_mix() -> None:
    schedule = prompt_schedule("0:(a (red:1.2) boat) 48 : (a house) 50:()")
    assert schedule == PromptSchedule((0, 48, 50), ("a (red:1.2) boat", "a house", ""))
    assert schedule.at(0) == ("a (red:1.2) boat", "a house", 0.0)
    assert schedule.at(12) == ("a (red:1.2) boat", "a house", 0.25)
    assert schedule.at(49) == ("a house", "", 0.5)
    assert schedule.at(99) == ("", "", 0.0)
    assert prompt_schedule("10:(a) 20:(b)").at(3) == ("a", "a", 0.0)
    assert prompt_schedule("a (boat:1.2), 48: sun").texts == ("a (boat:1.2), 48: sun",)
    assert prompt_schedule(r"0:(smile \)) 2:(b)").texts == (r"smile \)", "b")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0:(a) house", "character 7: expected a frame number.* got 'house'"),
        ("0:(a) 48:(b", "character 12: expected a closing bracket.* got its end"),
        ("8:(a) 4:(b)", "character 7: expected a frame number above 8, got '4:"),
        ("0:(a), 8:(b)", "character 6: expected a frame number"),
    ],
)
def test_a_schedule_that_does_not_parse_shows_the_place(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        prompt_schedule(text)


def test_a_toml_table_is_a_schedule(tmp_path: Path) -> None:
    file = tmp_path / "clip.toml"
    file.write_text('[render.prompt]\n0 = "a boat"\n48 = "a house"\n')
    assert render_config(read_toml(file)).prompt == "0:(a boat) 48:(a house)"
    with pytest.raises(UsageError, match="frame"):
        render_config(prompt={"soon": "a boat"})


def test_embeddings_are_mixed_between_two_prompts(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(save_family(tmp_path / "xl", "sdxl")), torch.float32, CPU)
    first, last = checkpoint.prompts("a boat"), checkpoint.prompts("a house")
    half = first.mixed(last, 0.5)
    torch.testing.assert_close(half.text, (first.text + last.text) / 2)
    torch.testing.assert_close(half.pooled, (first.pooled + last.pooled) / 2)
    assert first.mixed(last, 0.0) is first

    def painted(prompt: str, frame: int) -> torch.Tensor:
        model = ImageToImage(checkpoint, render_config(prompt=prompt, sampler="euler", steps=4), StageClock())
        return model.denoise(model.encode(torch.zeros(1, 3, 32, 32)), NoiseKey(0, frame))

    schedule = "0:(a boat) 4:(a house)"
    assert torch.equal(painted(schedule, 0), painted("a boat", 0))
    assert torch.equal(painted(schedule, 9), painted("a house", 9))
    assert not torch.equal(painted(schedule, 2), painted("a boat", 2))
