"""Worker processes for tests: started, listened to, and ended by their own id."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Process:
    """One worker process; what it says on stdout and stderr, line by line."""

    def __init__(self, *args: str, module: str = "tests.worker.child", **settings: str) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
                **settings,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self.complained: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, heard), daemon=True)
            for stream, heard in ((self._popen.stdout, self.said), (self._popen.stderr, self.complained))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Iterator[str], heard: list[str]) -> None:
        for line in stream:
            heard.append(line.rstrip())
            self._lines.put(line.rstrip())

    def says(self, word: str, seconds: float = 30) -> str:
        """Wait for a line with this word, on either stream."""
        for line in [*self.said, *self.complained]:
            if word in line:
                return line
        while True:
            line = self._lines.get(timeout=seconds)
            if word in line:
                return line

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def ended(self, seconds: float = 60) -> int:
        """Its exit code, once it has ended by itself."""
        return self._popen.wait(seconds)

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def kill(self) -> None:
        if self.alive:
            self._popen.kill()
        self._popen.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self._popen.stdout, self._popen.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def process(store: Path, scene: str, world: Path, where: str = "", **settings: str) -> Iterator[Process]:
    """A worker process for one block; `settings` go into its environment."""
    made = Process(f"sqlite:///{store}", scene, str(world), *([where] if where else []), **settings)
    try:
        yield made
    finally:
        made.kill()
