"""Weight schedules: numbers, names, pictures and a user's own function."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flowguide.diffusion.samplers import step_table
from flowguide.errors import ScheduleError, UnknownName, UsageError
from flowguide.guidance.weights import WeightInputs, weight_schedule

TABLE = step_table("ddim", {"prediction_type": "epsilon", "set_alpha_to_one": True}, 10, 0.5)


def inputs(distance: float = 0.0) -> WeightInputs:
    return WeightInputs(torch.full((16, 24), distance), torch.ones(16, 24), (2, 3), 0.5)


def test_a_number_is_the_same_everywhere() -> None:
    assert torch.equal(weight_schedule("0.3")(TABLE, inputs()), torch.full((5, 2, 3), 0.3))


def test_share_falls_with_the_noise_and_ends_at_none() -> None:
    weights = weight_schedule("share")(TABLE, inputs())[:, 0, 0]
    assert weights[0] == 1.0
    assert weights[-1] == 0.0
    assert bool((weights[1:] <= weights[:-1]).all())


def test_the_seeds_rule() -> None:
    """0.6 for progress under 0.8, then 0.4; 0.1 where the flow is longer than 1.5 px."""
    near = weight_schedule("seed-farneback")(TABLE, inputs(distance=1.5))[:, 0, 0]
    far = weight_schedule("seed-farneback")(TABLE, inputs(distance=1.6))[:, 0, 0]
    torch.testing.assert_close(near, torch.tensor([0.6, 0.6, 0.6, 0.4, 0.4]))
    torch.testing.assert_close(far, torch.full((5,), 0.1))


def test_a_picture_weighs_by_brightness(tmp_path: Path) -> None:
    image = np.zeros((16, 24), np.uint8)
    image[:, 16:] = 255
    cv2.imwrite(str(tmp_path / "map.png"), image)
    weights = weight_schedule(str(tmp_path / "map.png"))(TABLE, inputs())
    torch.testing.assert_close(weights[0], torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))


def user(tmp_path: Path, body: str) -> str:
    path = tmp_path / "mine.py"
    path.write_text(f"import numpy as np\n\ndef schedule(progress, aux):\n    {body}\n")
    return f"{path}:schedule"


def test_a_users_function_sees_progress_and_aux(tmp_path: Path) -> None:
    text = user(tmp_path, "return np.full(aux['dist_mat'].shape, progress * aux['strength'], np.float32)")
    weights = weight_schedule(text)(TABLE, inputs())
    torch.testing.assert_close(weights[:, 0, 0], torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))


def test_the_seeds_own_source_runs_as_it_is(tmp_path: Path) -> None:
    """A schedule written for the original script, with its names, gives what the named schedule gives."""
    path = tmp_path / "seed.py"
    path.write_text(
        "import numpy as np\n"
        "def guidance_schedule(denoise_percentage, aux: dict):\n"
        "    dist = aux['dist_mat']\n"
        "    weights = np.ones((dist.shape[0], dist.shape[1]), dtype=np.float32)\n"
        "    weights *= 0.6 if denoise_percentage < 0.8 else 0.4\n"
        "    weights[dist > 1.5] = 0.1\n"
        "    return weights\n"
    )
    mine = weight_schedule(f"{path}:guidance_schedule")(TABLE, inputs(1.0))
    torch.testing.assert_close(mine, weight_schedule("seed-farneback")(TABLE, inputs(1.0)))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return 1 / 0", r"ZeroDivisionError: .* at .*mine\.py:4: return 1 / 0"),
        ("return np.zeros((2, 2))", r"an array \(16, 24\), got an array \(2, 2\)"),
        ("return 1.5", r"in \[0, 1\], got 1\.5"),
        ("return float('nan')", r"in \[0, 1\], got nan"),
        ("return 'much'", "a number or an array"),
    ],
)
def test_a_users_mistake_names_file_and_line(tmp_path: Path, body: str, says: str) -> None:
    schedule = weight_schedule(user(tmp_path, body))
    with pytest.raises(ScheduleError, match=says) as caught:
        schedule(TABLE, inputs())
    assert "mine.py" in str(caught.value)


def test_a_file_that_does_not_load_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("x = 1\ndef schedule(:\n")
    with pytest.raises(ScheduleError, match=r"broken\.py:2"):
        weight_schedule(f"{path}:schedule")


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("shares", UnknownName, "Did you mean 'share'"),
        ("1.5", UsageError, "between 0 and 1"),
        ("nan", UsageError, "between 0 and 1"),
        ("absent.py:f", UsageError, "does not exist"),
        ("absent.png", UsageError, "not a picture"),
    ],
)
def test_unusable_names_are_refused(text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        weight_schedule(text)


def test_an_absent_function_names_the_ones_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="schedule"):
        weight_schedule(user(tmp_path, "return 1.0").replace(":schedule", ":shedule"))
