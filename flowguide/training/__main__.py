"""`python -m flowguide.training`: train, export and measure the bundled model."""

import os
from pathlib import Path

from cyclopts import App

# their notes about parts that are not used here
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

app = App(name="training", help="Train, export and measure the bundled model, painter.")


@app.command
def train(
    *,
    data: Path,
    work: Path,
    minutes: float = float("inf"),
    resume: bool = False,
    steps: int | None = None,
    compiled: bool = False,
    processes: int = 1,
) -> None:
    """Train for some minutes; the same command goes on where it stopped.

    Parameters
    ----------
    data
        Folder with photos/, paintings/ and clips/.
    work
        Folder for squares (5 GB), checkpoints, logs and the exported model.
    minutes
        Stop after this time.
    resume
        Begin from the bundled weights where the work folder has no checkpoint.
    steps
        Denoiser steps of the whole training; the learning rate falls over the last fifth of them.
    compiled
        Compile the UNet (a C++ compiler is needed on the CPU; about 1.4 times faster).
    processes
        Processes that render the training squares.
    """
    from .run import TrainingSettings, train_painter

    changes = {"processes": processes} | ({"denoiser_steps": steps} if steps else {})
    if compiled:
        changes["compiled"] = True
    done = train_painter(data, work, minutes, resume=resume, settings=TrainingSettings.for_this_machine(**changes))
    print("training complete" if done else "stopped; the same command goes on from here")


@app.command
def export(*, work: Path, to: Path) -> None:
    """Write the model folder from the last checkpoints, also while a training runs.

    Parameters
    ----------
    work
        Folder of the training.
    to
        Model folder to write or replace; its README.md stays.
    """
    from .export import export_checkpoint

    export_checkpoint(work, to)


@app.command
def measure(*, data: Path, work: Path, model: Path | None = None, to: Path = Path("painter-quality.json")) -> None:
    """Measure a model folder on the held-out clips and write the numbers as JSON.

    Parameters
    ----------
    data
        Folder with clips/.
    work
        Folder of the training, whose squares train the style classifier.
    model
        Model folder; the bundled one by default.
    to
        JSON file to write.
    """
    from .quality import measure_painter
    from .run import BUNDLED

    measure_painter(model or BUNDLED, data, work, to)


@app.command
def inpainting(
    *,
    work: Path,
    to: Path,
    model: Path | None = None,
    minutes: float = float("inf"),
    steps: int = 2400,
    compiled: bool = False,
) -> None:
    """Train the inpainting sibling of a painter for some minutes; the same command goes on where it stopped.

    Parameters
    ----------
    work
        Folder of the painter's training, with its squares and latents.
    to
        Model folder to write the UNet to.
    model
        The painter that it begins as; the bundled one by default.
    minutes
        Stop after this time.
    steps
        Of the whole training; the learning rate falls over the second half of them.
    compiled
        Compile the UNet.
    """
    from .inpainting import train_inpainter
    from .run import BUNDLED

    done = train_inpainter(model or BUNDLED, work, to, minutes, steps=steps, compiled=compiled)
    print("training complete" if done else "stopped; the same command goes on from here")


@app.command
def watch(*, data: Path, work: Path) -> None:
    """Measure the last checkpoint on six held-out frames and log the numbers for `plot`; also while training.

    Parameters
    ----------
    data
        Folder with clips/.
    work
        Folder of the training.
    """
    from .quality import log_quality

    print(" ".join(f"{name}: {value:g}" for name, value in log_quality(data, work).items()))


@app.command
def plot(*, work: Path, to: Path = Path("painter-losses.png")) -> None:
    """Draw the logged losses of both networks and, where it was watched, the quality over time.

    Parameters
    ----------
    work
        Folder of the training.
    to
        Picture to write.
    """
    from .plot import plot_losses

    plot_losses(work, to)


@app.command
def sheet(*, data: Path, model: Path | None = None, to: Path = Path("painter.jpg"), size: int = 384) -> None:
    """Draw a contact sheet of held-out frames.

    Parameters
    ----------
    data
        Folder with clips/.
    model
        Model folder; the bundled one by default.
    to
        JPEG to write.
    size
        Side of each picture in pixels.
    """
    from .run import BUNDLED
    from .sheet import contact_sheet

    contact_sheet(model or BUNDLED, data, to, size)


@app.command
def flow(
    *,
    data: Path,
    work: Path,
    minutes: float = float("inf"),
    to: Path | None = None,
    steps: int | None = None,
    processes: int = 1,
    threads: int = 1,
) -> None:
    """Train flowguide-flow, the flow network, for some minutes; the same command goes on where it stopped.

    Parameters
    ----------
    data
        Folder with photos/.
    work
        Folder for the pairs (1 GB), checkpoints, losses and the curve of errors, epe.jsonl.
    minutes
        Stop after this time.
    to
        File to write the weights to; the bundled one by default.
    steps
        Of the whole training; the learning rate falls over the last 60 %.
    processes
        Processes that paint the pairs.
    threads
        CPU threads of the training.
    """
    import torch

    from ..flow.flowguide_flow import WEIGHTS
    from .flow import FlowSettings, train_flow

    torch.set_num_threads(threads)
    settings = FlowSettings.for_this_machine(**({"steps": steps} if steps else {}))
    done = train_flow(data, work, minutes, settings, processes, to or WEIGHTS)
    print("training complete" if done else "stopped; the same command goes on from here")


@app.command
def flow_onnx(*, to: Path, height: int, width: int, weights: Path | None = None) -> None:
    """Write flowguide-flow as an ONNX file for pictures of one size; --flow onnx:FILE takes it.

    Parameters
    ----------
    to
        ONNX file to write; what the network expects is written beside it as TOML.
    height
        Of the pictures, a multiple of 16.
    width
        Of the pictures, a multiple of 16.
    weights
        File of the weights; the bundled one by default.
    """
    from ..flow.flowguide_flow import WEIGHTS, load_weights
    from .flow_export import export_flow

    export_flow(load_weights(weights or WEIGHTS), to, (height, width))


@app.command
def confidence(
    *,
    data: Path,
    work: Path,
    minutes: float = 25,
    to: Path | None = None,
    samples: int | None = None,
    steps: int | None = None,
    threads: int = 1,
) -> None:
    """Train the learned confidence for some minutes; the same command goes on where it stopped.

    Parameters
    ----------
    data
        Folder with photos/.
    work
        Folder for the samples and checkpoints.
    minutes
        Stop after this time.
    to
        File to write the weights to; the bundled one by default.
    samples
        Crops to learn from.
    steps
        Of the whole training.
    threads
        CPU threads.
    """
    from .confidence import train_and_save

    given = {"samples": samples, "steps": steps}
    train_and_save(data, work, minutes, {name: value for name, value in given.items() if value}, threads, to)


if __name__ == "__main__":
    app()
