"""Options: one place, checked, in sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowguide.config import RenderConfig, changed, read_toml, render_config
from flowguide.errors import UnknownName, UsageError


def test_every_option_says_what_it_does() -> None:
    for name, field in RenderConfig.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_a_configuration_survives_its_own_dump() -> None:
    config = render_config(prompt="ink drawing", size="384", seed=9)
    assert render_config(config.model_dump()) == config


@given(st.floats(allow_nan=True))
def test_strength_is_accepted_in_its_range_only(value: float) -> None:
    if 0.0 <= value <= 1.0:
        assert render_config(strength=value).strength == value
    else:
        with pytest.raises(UsageError, match="strength"):
            render_config(strength=value)


def test_changes_are_checked_as_a_whole() -> None:
    config = RenderConfig()
    assert changed(config, steps=4).steps == 4
    assert config.steps == 8
    with pytest.raises(UsageError, match="steps"):
        changed(config, steps=0)
    with pytest.raises(UnknownName, match="Did you mean 'strength'"):
        changed(config, strenght=0.5)


@pytest.mark.parametrize(("text", "says"), [("prompt = ", "cannot be read"), ("render = 3", "should be a table")])
def test_a_broken_file_is_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(UsageError, match=says):
        read_toml(tmp_path / "bad.toml")


@pytest.mark.parametrize("option", ["model", "mask", "keep"])
def test_an_empty_name_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match=f"^Option {option}: it is empty"):
        render_config({option: " "})
