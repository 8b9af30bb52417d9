"""The program of the child process: a guard, and the performer that it forks. Started by path, with nothing imported.

It gets two lines on stdin, where the function is and what it is called with, and gives its answers as lines on what
was its stdout. What the function prints goes to stderr, so that no noise comes between.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from typing import Any, BinaryIO


def main() -> None:
    asked, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    performer = os.fork()
    if performer:
        _guard(performer, asked, answers, woken)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.close(woken)
    os.close(wakes)
    _perform(asked, answers)


def _guard(performer: int, asked: BinaryIO, answers: BinaryIO, woken: int) -> None:
    """Say how the performer ended. Whoever started us holds the other end of `asked` until it needs us no more, and
    ends us then; should it die, the end closes and we end the whole group, ourselves too."""
    looks = select.poll()
    looks.register(asked, 0)  # nothing but that the other end is closed
    looks.register(woken, select.POLLIN)
    while True:
        for file, _ in looks.poll():
            if file != woken:
                os.killpg(0, signal.SIGKILL)
            os.read(woken, 64)
            ended, status = os.waitpid(performer, os.WNOHANG)
            if ended:
                looks.unregister(woken)
                _say(answers, {"ended": os.waitstatus_to_exitcode(status)})


def _perform(asked: BinaryIO, answers: BinaryIO) -> None:
    where = json.loads(_line(asked))
    sys.path[:] = where["path"]
    sys.argv[:] = [where["file"]]
    from interlock.isolation.performing import answer, load  # only now it is known where interlock lies

    loaded = load(where)
    _say(answers, {"ready": True} if callable(loaded) else loaded)
    if callable(loaded):
        said = answer(loaded, where["tool"], json.loads(_line(asked)))
        sys.stdout.flush()
        sys.stderr.flush()
        answers.write(said + b"\n")
        answers.flush()
    os._exit(0)  # whatever threads or files it leaves behind


def _line(asked: BinaryIO) -> bytes:
    parts: list[bytes] = []
    while not (parts and parts[-1].endswith(b"\n")):
        part = os.read(asked.fileno(), 1 << 16)
        if not part:
            os._exit(0)  # nobody asks any more
        parts.append(part)
    return b"".join(parts)


def _say(answers: BinaryIO, said: dict[str, Any]) -> None:
    answers.write(b"\n" + json.dumps(said).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
