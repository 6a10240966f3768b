"""The process of the command line: `flowguide` and `python -m flowguide`."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and end the process with its exit code; 130 where the user stops it, loading included."""
    try:
        from .cli import main as run

        run()
    except KeyboardInterrupt:
        print("flowguide: stopped.", file=sys.stderr)
        code = 130
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    # Native libraries with threads of their own now and then never return from the interpreter's teardown.
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
