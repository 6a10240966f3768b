"""Mutated files of every kind that flowguide reads: none may crash it, hang it, leak, or be told as anything but one
sentence.

    python tests/fuzz.py --count 10000        # findings go to a folder; ends with 1 where there are any
    python tests/fuzz.py --make-seeds         # writes fuzz_seeds anew

Cases are numbered and depend on their number alone. They run in a worker process of their own, which is ended where one
case takes more than LIMIT_SECONDS, and begun again after a crash.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import logging
import os
import random
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

SEEDS = Path(__file__).parent / "fuzz_seeds"
LIMIT_SECONDS = 30.0
WARM = 400
"""Cases after which the memory of the worker should have settled."""
MOST_GROWTH_MIB = 96
MEMORY_LIMIT = 12 << 30
SICKNESS = "FLOWGUIDE_TEST_FUZZ_SICK"
SICK = {3: os.abort, 5: functools.partial(time.sleep, 60), 7: functools.partial(divmod, 1, 0)}
"""What cases do instead where SICKNESS is set: what the harness has to find."""
TELLING = [b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"{", b"[" * 999, b'"',
           b"1e999", b"-1", b"null", b"\\ud800", b"\n", b"= ", b"%s%n", b"../"]  # fmt: skip


SETTINGS = """
[render]
prompt = { 0 = "oil painting", 24 = "ink" }
strength = 0.5
steps = 8
size = "64x48"
frame_rate = "30000/1001"
lora = ["a@1", "b"]
start_seconds = 1.5
"""


def mutated(seed: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """`seed` with one to eight changes: bits, telling values, pieces taken out, put twice, cut off, or of `others`."""
    data = bytearray(seed)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        place = chance.randrange(len(data) + 1)
        length = min(len(data) - place, chance.choice([1, 2, 4, 16, 64, 512]))
        kind = chance.randrange(8)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 2:
            piece = chance.choice(TELLING)
            data[place : place + len(piece)] = piece
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length]
        elif kind == 5 and chance.random() < 0.4:
            del data[place:]
        elif kind == 6:
            data[place : place + length] = chance.randbytes(length)
        else:
            other = chance.choice(others)
            begin = chance.randrange(len(other) + 1)
            data[place : place + length] = other[begin : begin + length]
    return bytes(data)


@dataclass(frozen=True)
class Case:
    """One mutated file."""

    kind: str
    path: Path
    place: Path
    """Where the file belongs in a run folder; only for the kind run."""
    folder: Path
    """Empty, and the case's own."""
    chance: random.Random


def read_clip(case: Case) -> None:
    """A clip: its frames, and every third time its sound too, into a new file."""
    from flowguide.video import ClipReader, ClipWriter

    path = case.path.with_name(case.path.name.replace("_0", "_%d"))
    with ClipReader(path, size=(48, 64), max_frames=12, alpha=True) as reader:
        if case.chance.randrange(3):
            for _ in reader:
                continue
            return
        info = reader.info
        with ClipWriter(
            case.folder / "copy.mkv", size=info.size, time_base=info.time_base, frame_rate=info.frame_rate,
            audio_from=reader, codec="ffv1",
        ) as writer:  # fmt: skip
            for frame in reader:
                writer.write(frame)


def read_settings(case: Case) -> None:
    from flowguide.config import read_toml, render_config

    render_config(read_toml(case.path))


def read_preset(case: Case) -> None:
    from flowguide.video.presets import preset_codec

    preset_codec(case.folder / "out.mp4", str(case.path))


def read_profiles(case: Case) -> None:
    from flowguide.runs.profiles import read_profiles

    read_profiles(case.path)


def read_manifest(case: Case) -> None:
    from flowguide.run_commands import show_command

    with contextlib.redirect_stdout(io.StringIO()):
        show_command(case.path)


def read_run(case: Case) -> None:
    """A journal with one damaged file: all that is asked of it before and while a run is gone on with."""
    from flowguide.config import render_config
    from flowguide.runs.assemble import is_published, kept_records, may_be_replaced
    from flowguide.runs.journal import Journal

    output = case.folder / "out.mp4"
    shutil.copy(SEEDS / "clip.mp4", output)
    shutil.copytree(SEEDS / "out.mp4.run", case.folder / "out.mp4.run")
    shutil.copy(case.path, case.folder / "out.mp4.run" / case.place)
    journal = Journal(output)
    journal.tidy()
    for ask in (
        lambda: render_config(journal.run["settings"]),
        lambda: kept_records(journal),
        lambda: journal.nearest_state(2),
        lambda: is_published(journal),
        lambda: may_be_replaced(journal),
        lambda: (journal.noted("painted") or {"losses": []})["losses"],
        lambda: (journal.noted("redone") or {"ranges": []})["ranges"],
        lambda: journal.run["source_path"] + "",
        lambda: range(journal.run["segment_frames"]),
        lambda: range((journal.noted("joined") or {}).get("frames", 1)),
    ):
        sentence(ask)


KINDS: dict[str, tuple[Callable[[Case], None], int]] = {
    "clip": (read_clip, 6),
    "settings": (read_settings, 1),
    "preset": (read_preset, 1),
    "profiles": (read_profiles, 1),
    "manifest": (read_manifest, 1),
    "run": (read_run, 3),
}
"""Kind of file -> how it is read, and how often it is chosen."""


def seeds() -> dict[str, list[Path]]:
    """Kind -> its files, relative to SEEDS."""
    found: dict[str, list[Path]] = {name: [] for name in KINDS}
    for path in sorted(SEEDS.rglob("*")):
        if path.is_file():
            inside = path.relative_to(SEEDS)
            in_run = inside.parts[0].endswith(".run")
            found["run" if in_run else re.split("[-_.]", path.name)[0]].append(inside)
    return found


def sentence(ask: Callable[[], object]) -> None:
    """Call `ask`; a FlowguideError of one line is fine, and so is a MemoryError, which the command line tells."""
    from flowguide.errors import FlowguideError

    try:
        ask()
    except MemoryError:
        return
    except FlowguideError as error:
        if "\n" in str(error).strip() or not str(error):
            raise AssertionError(f"not one sentence: {error!r}") from error


def make_case(number: int, folder: Path) -> Case:
    """Write case `number` into `folder`."""
    chance = random.Random(number)
    found = seeds()
    kind = chance.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
    seed = chance.choice(found[kind])
    others = [(SEEDS / path).read_bytes() for path in found[kind]]
    (folder / "in").mkdir()
    path = folder / "in" / seed.name
    path.write_bytes(mutated((SEEDS / seed).read_bytes(), others, chance))
    return Case(kind, path, Path(*seed.parts[1:]), folder, chance)


def work(numbers: Iterator[int]) -> None:
    """Run cases; a line before and after each on standard output."""
    import resource

    import psutil

    sick = SICK if SICKNESS in os.environ else {}
    if not sick:
        import flowguide.runs.clip  # noqa: F401

    logging.disable(logging.CRITICAL)
    # Frames of a header gone wild, and no more than that.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    process = psutil.Process()
    for number in numbers:
        print("begin", number, flush=True)
        folder = Path(tempfile.mkdtemp(prefix=f"case-{number}-"))
        told = "fine"
        try:
            if sick:
                sick.get(number, int)()
            else:
                case = make_case(number, folder)
                sentence(functools.partial(KINDS[case.kind][0], case))
        except Exception as error:
            told = f"raised {type(error).__name__}: {error}".replace("\n", " ")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print("end", number, process.memory_info().rss >> 20, told, flush=True)


def run(first: int, count: int, say: Callable[[str], None] = print) -> list[str]:
    """Run `count` cases from number `first` on and return what was found, a line each."""
    findings: list[str] = []
    number, memory = first, dict[int, int]()
    while number < first + count:
        # Files of cases that were cut off go with this folder.
        with tempfile.TemporaryDirectory() as folder:
            number, told = _worker(number, first + count, folder, memory)
        findings += told
        say(f"{number - first} cases, {len(findings)} findings")
    settled = {case: size for case, size in memory.items() if case >= first + WARM}
    if settled:
        growth = min(list(settled.values())[-50:]) - min(list(settled.values())[:50])
        sizes = list(settled.values())
        tenths = [min(sizes[n * len(sizes) // 10 :][:50]) for n in range(10)]
        say(f"memory: {growth:+d} MiB over {len(settled)} cases; on the way {' '.join(map(str, tenths))} MiB")
        if growth > MOST_GROWTH_MIB:
            findings.append(f"memory grew by {growth} MiB")
    return findings


def _worker(number: int, end: int, folder: str, memory: dict[int, int]) -> tuple[int, list[str]]:
    """Let one process run the cases from `number` to `end`; the first case left, and what was found."""
    command = [sys.executable, __file__, "--work", str(number), str(end)]
    environment = {**os.environ, "TMPDIR": folder, "PYTHONFAULTHANDLER": "1", "OMP_NUM_THREADS": "1"}
    findings = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, env=environment) as process:
        assert process.stdout is not None
        begun, pending = False, b""
        while True:
            # The start of the process counts for no case.
            ready, _, _ = select.select([process.stdout], [], [], LIMIT_SECONDS if begun else 300)
            if not ready:
                process.kill()
                return number + 1, [*findings, f"case {number} takes more than {LIMIT_SECONDS:.0f} s"]
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                break
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                word, case, *rest = line.decode().split(" ", 3)
                begun, number = word == "begin", int(case) + (word == "end")
                if word == "end":
                    memory[int(case)] = int(rest[0])
                    if rest[1] != "fine":
                        findings.append(f"case {case} {rest[1]}")
        if process.wait() == 0:
            return end, findings
        return number + 1, [*findings, f"case {number} ended the process with {process.returncode}"]


def make_seeds() -> None:
    """Write the seeds; each a few kilobytes."""
    import torch
    from coded_frames import make_clicking, write
    from tiny_checkpoint import save_tiny_checkpoint

    import flowguide
    from flowguide.runs.profiles import profiles_file
    from flowguide.video.presets import preset_names

    shutil.rmtree(SEEDS, ignore_errors=True)
    SEEDS.mkdir()
    torch.set_num_threads(1)
    size, step = (32, 64), Fraction(1, 25)
    make_clicking(SEEDS / "clip.mp4", 0.32, [0.1])
    make_clicking(SEEDS / "clip.mkv", 0.32, [0.1])
    make_clicking(SEEDS / "clip.ts", 0.2, [0.1])
    for name, codec in (("clip.webm", "vp9"), ("clip.mov", "prores4444"), ("clip.gif", None), ("clip.webp", None),
                        ("clip-hevc.mp4", "hevc"), ("clip-av1.mp4", "av1"), ("clip-ffv1.mkv", "ffv1")):  # fmt: skip
        write(SEEDS / name, range(3), step, size if "av1" not in name else (64, 96), codec=codec)
    for suffix in (".png", ".exr"):
        write(SEEDS / f"clip_%d{suffix}", [0], step, size)
    (SEEDS / "settings.toml").write_text(SETTINGS)
    shutil.copy(preset_names()["web"], SEEDS / "preset.toml")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        save_tiny_checkpoint(Path("tiny"))
        shutil.copy(SEEDS / "clip.mp4", "clip.mp4")
        options = {"model": "tiny", "dtype": "float32", "steps": 2, "size": "16", "max_frames": 9, "segment_frames": 2}
        stop = iter([False] * 4 + [True])
        with contextlib.suppress(flowguide.errors.FlowguideError):
            flowguide.render("clip.mp4", "half.mp4", should_stop=stop.__next__, **options)
        flowguide.render("clip.mp4", "manifest.mp4", **options)
        run = SEEDS / "out.mp4.run"
        shutil.copytree("half.mp4.run", run)
        for name in ("painted", "joined", "redone"):
            shutil.copy(Path("manifest.mp4.run") / f"{name}.json", run)
        for name in ("manifest.mp4.json", "manifest.mp4", str(profiles_file())):
            shutil.copy(name, SEEDS)
        (run / "run.json").write_text((run / "run.json").read_text().replace(folder, ""))
        (run / "lock").unlink()
        (run / "states" / "000001.safetensors").unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--work", type=int, nargs=2)
    parser.add_argument("--make-seeds", action="store_true")
    chosen = parser.parse_args()
    if chosen.make_seeds:
        make_seeds()
        return 0
    if chosen.work:
        work(iter(range(*chosen.work)))
        return 0
    findings = run(chosen.first, chosen.count)
    print("\n".join(findings) or "nothing found")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
