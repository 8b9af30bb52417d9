"""A server's process: started in a group of its own, spoken to in lines, and surely ended with all that it started.

The group is killed when we say so. When our process is killed itself, nobody is left to say it: a shell beside the
server waits on a pipe that only we hold open, and kills the group when that breaks. Knows no protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence

INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
"""What of our environment a server gets unasked: nothing that could be a secret."""

READ_BYTES = 65_536
STDERR_LINES = 5
STDERR_CHARS = 300
LEAVE_SECONDS = 1.0
"""How long a server may take to end by itself once its standard input is closed."""

_GUARD = 'read -r line; kill -s KILL -- "-$0"'  # in this form every shell takes it
"""It outlives us by a moment: the read ends when our end of the pipe is gone."""


class TooLong(Exception):
    """A line is longer than allowed."""


class ServerProcess:
    """One process that serves. Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, guard: asyncio.subprocess.Process) -> None:
        self._process = process
        self._guard = guard
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._listening = asyncio.create_task(self._listen(), name=f"stderr of {process.pid}")

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str], folder: str | None = None) -> ServerProcess:
        """Start it. Raises OSError."""
        pipe = asyncio.subprocess.PIPE
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, env={**inherited, **env}, cwd=folder, start_new_session=True
        )
        try:
            guard = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", _GUARD, str(process.pid), stdin=pipe, env={}, start_new_session=True
            )
        except BaseException:
            _kill_group(process.pid)
            raise
        return cls(process, guard)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def write(self, line: bytes) -> None:
        """Send one line. Raises OSError when nobody reads any more."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        await self._process.stdin.drain()

    async def lines(self, bytes_max: int) -> AsyncIterator[bytes]:
        """What it says, line by line, until it says no more. Raises `TooLong`."""
        assert self._process.stdout is not None
        rest = bytearray()
        while chunk := await self._process.stdout.read(READ_BYTES):
            await asyncio.sleep(0)  # a flood comes without a pause: others want to run too
            seen = len(rest)
            rest += chunk
            while (end := rest.find(b"\n", seen)) >= 0:
                if end > bytes_max:
                    raise TooLong
                yield bytes(rest[:end])
                del rest[: end + 1]
                seen = 0
            if len(rest) > bytes_max:
                raise TooLong

    async def _listen(self) -> None:
        """Keep the last lines of its standard error: they mostly say why it ended."""
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(READ_BYTES):
            await asyncio.sleep(0)
            for line in chunk[-4 * STDERR_CHARS * STDERR_LINES :].decode("utf-8", "replace").splitlines():
                if line.strip():
                    self._stderr.append(line.strip()[:STDERR_CHARS])

    def last_words(self) -> str:
        """How it ended, and what it said last."""
        code = self._process.returncode
        how = "" if code is None else f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"
        return ": ".join(part for part in (how, self._stderr[-1] if self._stderr else "") if part)

    def kill(self) -> None:
        """End the whole group, now."""
        _kill_group(self._process.pid)

    async def end(self, leave: float = LEAVE_SECONDS) -> None:
        """Let it end by itself for so long, then kill what is left of its group. Cancelled, it is killed at once."""
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
            await self.gone(leave)
        finally:
            self.kill()
            self._listening.cancel()
            self._reaping = asyncio.create_task(self._reap(), name=f"reap {self.pid}")
        await asyncio.shield(self._reaping)

    async def gone(self, seconds: float) -> None:
        """Wait for its end, for so long."""
        # `wait` of a process also waits for whoever holds its pipes, for as long as it lives.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._process.returncode is None:
                    await asyncio.sleep(0.01)

    async def fallen_silent(self, seconds: float) -> None:
        """Wait for its end and for all that it said on its standard error, for so long together."""
        until = asyncio.get_running_loop().time() + seconds
        await self.gone(seconds)
        await asyncio.wait({self._listening}, timeout=max(0.0, until - asyncio.get_running_loop().time()))

    async def _reap(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._guard.kill()
        await self.gone(LEAVE_SECONDS)
        await self._guard.wait()
        for process in (self._process, self._guard):
            transport = getattr(process, "_transport", None)  # a grandchild in a group of its own may hold the pipes
            if transport is not None:
                transport.close()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
