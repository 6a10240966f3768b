"""Results as JSON: the rows, the command that made them, the machine they were made on."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flowguide.machine import machine_line


def write_result(path: Path, rows: list[dict[str, Any]], **context: Any) -> None:
    """Write `rows` with their circumstances; numbers are rounded to six digits."""
    content = {
        "command": "python " + " ".join(shlex.quote(argument) for argument in _public(sys.argv)),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine_line(),
        **context,
        "rows": _rounded(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {path}")


def _public(arguments: list[str]) -> list[str]:
    """The command without the folders of the machine it ran on."""
    return [Path(argument).name if Path(argument).is_absolute() else argument for argument in arguments]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return value
