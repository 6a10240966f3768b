"""The per-frame curves of a report as one picture, drawn with matplotlib (extra `plot`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BackendMissing, FlowguideError
from .measures import Curve
from .metrics import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {
    "flicker": "flicker of what\nstands still, 0-255",
    "sharpness": "sharpness,\nrelative",
    "colour_drift": "colour drift,\n0-255",
    "psnr_db": "PSNR, dB",
    "ssim": "SSIM",
}
PANEL_INCHES = (10.0, 1.8)
TITLE_INCHES = 0.8
SHOT_COLOUR = "0.6"


def require_matplotlib() -> None:
    """Raises BackendMissing where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BackendMissing("A plot needs matplotlib; install it with: pip install 'flowguide[plot]'.") from error


def write_plot(report: Report, path: Path) -> None:
    """Write the curves of `report` into the PNG `path`: one panel per measure that has any value, a colour per clip.

    Grey vertical lines are first frames of shots; dots are anchors. Raises BackendMissing without matplotlib, and
    FlowguideError where the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(report)
    height = PANEL_INCHES[1] * len(panels) + TITLE_INCHES
    figure = Figure(figsize=(PANEL_INCHES[0], height), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, curves) in zip(rows, panels.items(), strict=True):
        _draw(axes, label, curves, report)
    rows[-1].set_xlabel("frame (grey: a shot begins; dots: anchors)")
    colours = {clip.name: f"C{place}" for place, clip in enumerate(report.clips)}
    handles = [rows[0].plot([], [], color=colour, label=name)[0] for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4), frameon=False)
    rows[0].set_title(f"{report.frames} frames, flow by {report.estimator}", fontsize="medium")
    try:
        figure.savefig(path, dpi=100, format="png")
    except OSError as error:
        raise FlowguideError(f"{path} cannot be written ({error.strerror or error}); choose another place.") from error


def _panels(report: Report) -> dict[str, dict[int, Curve]]:
    """Label -> curves by the clip's place; panels without any value are left out."""
    panels: dict[str, dict[int, Curve]] = {}
    for place, clip in enumerate(report.clips):
        for lag, error in clip.warp_error.items():
            panels.setdefault(f"E_warp({lag}),\n0-255", {})[place] = error.curve
    for name, label in LABELS.items():
        for place, clip in enumerate(report.clips):
            if name in clip.curves:
                panels.setdefault(label, {})[place] = clip.curves[name]
    known = {
        label: curves
        for label, curves in panels.items()
        if any(value is not None for curve in curves.values() for value in curve)
    }
    if not known:
        raise FlowguideError("There is no curve to plot: no measure has a value; take more frames, or name a clip.")
    return known


def _draw(axes: Axes, label: str, curves: dict[int, Curve], report: Report) -> None:
    for shot in report.shots:
        axes.axvline(shot, color=SHOT_COLOUR, linewidth=0.8)
    ends = [*report.shots[1:], report.frames]
    # A lone frame makes no line, so it is shown as a point.
    lone = any(end - first == 1 for first, end in zip(report.shots, ends, strict=True))
    # A gap before each shot: no line runs across a cut.
    places = sorted([*range(report.frames), *(shot - 0.5 for shot in report.shots)])
    for place, curve in curves.items():
        values = [float("nan") if value is None else value for value in curve]
        drawn = [values[int(at)] if at == int(at) else float("nan") for at in places]
        axes.plot(
            places,
            drawn,
            color=f"C{place}",
            linewidth=1.2,
            marker="x" if lone else "",
            markersize=4,
            zorder=2.5 if place else 2,
        )
        anchors = [frame for frame in report.clips[place].anchors if curve[frame] is not None]
        axes.plot(anchors, [values[frame] for frame in anchors], ".", color=f"C{place}", markersize=6)
    axes.set_ylabel(label, fontsize="small")
    axes.tick_params(labelsize="small")
    axes.grid(axis="y", linewidth=0.4)
    axes.margins(x=0.01)
