"""An engine file for a network: the one that is there if it is fresh, else a new one."""

from __future__ import annotations

import dataclasses
import errno
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from flowguide.engines import store
from flowguide.engines.export import export_onnx
from flowguide.engines.key import EngineKey, in_order, key_of
from flowguide.engines.network import Network
from flowguide.engines.runtime import RUNTIMES
from flowguide.engines.tensorrt_build import build_in_own_process, profiles_of

from flowguide.errors import ModelError

log = logging.getLogger("flowguide.engines")


def engine_file(network: Network, runtime: str, capabilities: tuple[str, ...] = (), *, anew: bool = False) -> Path:
    """The engine of `network` for `runtime`, built if there is none that is fresh, or in any case. One for a range of
    sizes serves where there is none for the very size.

    capabilities: cards to build for, such as 8.9; default: the one that is here. Two processes that want the same
    engine build it once. Raises ModelError that says what went wrong and where.
    """
    key = key_of(network, runtime, capabilities)
    file = store.folder() / (key.stem + str(RUNTIMES[runtime].engine))
    if not anew and not file.is_file():
        wider = store.covering(key)
        if wider is not None:
            return wider
    with store.locked(file):
        why = "it could not be opened" if anew else store.why_stale(file, key)
        if why is None:
            return file
        key = _with_cards_of(file, key)
        log.warning("Building %s: %s.", file.name, why)
        try:
            store.check_room(3 * network.weight_bytes() + (64 << 20))
            _build(network, key, file)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise ModelError(
                    f"The disk became full while {file.name} was built. Run 'flowguide engines prune', or set "
                    "FLOWGUIDE_HOME to another disk."
                ) from error
            raise ModelError(f"{file.name} could not be built: {error}") from error
    return file


def engine_files(networks: Sequence[Network], runtime: str, capabilities: tuple[str, ...] = ()) -> list[Path]:
    """`engine_file` of each, in order; one is built while the next is exported."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda network: engine_file(network, runtime, capabilities), networks))


def _with_cards_of(file: Path, key: EngineKey) -> EngineKey:
    """The key for the cards that the engine is there for already beside those asked for."""
    try:
        before = store.read_entry(file).key
    except ModelError:
        return key
    return dataclasses.replace(key, compute_capability=in_order([*before.compute_capability, *key.compute_capability]))


def _build(network: Network, key: EngineKey, file: Path) -> None:
    began = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="building-", dir=file.parent))
    try:
        made = export_onnx(network, scratch / (key.stem + ".onnx"))
        if file.suffix == ".plan":
            plan = scratch / file.name
            library = str(RUNTIMES[key.runtime].package)
            build_in_own_process(library, made[0], plan, key.compute_capability, profiles_of(network))
            made = [plan]
        store.note_path(file).unlink(missing_ok=True)
        for path in reversed(made):
            path.replace(file.parent / path.name)
        store.write_note(file, key, [file.parent / path.name for path in made], time.monotonic() - began)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def in_float32(network: Network) -> Network:
    """The same network with float32 weights, inputs and outputs: what a CPU engine is made of."""
    if network.dtype == torch.float32:
        return network
    import copy

    inputs = {
        name: dataclasses.replace(spec, dtype=torch.float32) if spec.dtype.is_floating_point else spec
        for name, spec in network.inputs.items()
    }
    return dataclasses.replace(network, module=copy.deepcopy(network.module).float(), inputs=inputs)
