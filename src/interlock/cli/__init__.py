"""The command line: one file per verb. `main` is the program `interlock`; nothing is loaded before it is asked for."""

from __future__ import annotations

import sys
from importlib import import_module

__all__ = ["main"]


def main() -> int:
    """Run the command in `sys.argv`. Returns its exit code: 0 good, 1 failed, 2 misuse, 3 waiting for a person."""
    try:
        # Loaded in here, so that Ctrl-C while Python still loads us ends in one line too.
        app = import_module("interlock.cli.app")
    except KeyboardInterrupt:
        sys.stderr.write("interlock: interrupted\n")
        return 130
    code: int = app.run(sys.argv[1:])
    return code
