"""The worker's side of an isolated call: start a process, ask it once, have its answer, and leave nothing of it behind.

`result` blocks the thread that calls it; `kill` ends it from any other. Until the arguments are sent nothing can have
happened; from then on only the answer says what has, and an end without one is a doubt as the tool's `way` has it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from interlock.canonical import Json, decode, encode
from interlock.clock import Clock
from interlock.engine.attempts import AttemptError
from interlock.machine.address import Address, NoAddress, address_of
from interlock.machine.tools import Call, Tool, explain
from interlock.policy.redaction import redacted

AnyTool = Tool[Any, Any, Any]

ANSWER_BYTES_MAX = 16_000_000
"""What one answer may hold."""

_CHILD = str(Path(__file__).with_name("child.py"))
_CHUNK = 1 << 16
_LOOK_SECONDS = 0.5  # a process that left its group may keep our pipes open after the group is killed
_NOISE_BYTES = 2000  # of the last that it wrote to stderr


class Isolation:
    """Makes an isolated call of each call of a tool."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __call__(self, tool: AnyTool, call: Call[Any], args: Mapping[str, Json]) -> IsolatedCall:
        return IsolatedCall(self._clock, tool, call, args)


class IsolatedCall:
    """One call in a process of its own."""

    def __init__(self, clock: Clock, tool: AnyTool, call: Call[Any], args: Mapping[str, Json]) -> None:
        self._clock = clock
        self._tool = tool
        self._call = call
        self._args = args
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._noise = b""

    def result(self, begin: Callable[[], None]) -> Any:
        """What the function returns. `begin` is asked right before the arguments are sent. Raises `AttemptError`."""
        began = self._clock.monotonic()
        address = self._address()
        self._start()
        try:
            return self._asked(address, began, begin)
        finally:
            self.kill()
            self._clean_up()

    def kill(self) -> None:
        """End it with every process it has started, now. It may be called at any time, and again."""
        with self._lock:
            self._killed = True
            if self._process is not None and self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    # -- starting -----------------------------------------------------------------------------------------------------

    def _address(self) -> Address:
        try:
            return address_of(self._tool, self._tool.function)
        except NoAddress as wrong:
            raise _not_done(f"{self._tool.name} can't be isolated: {wrong}") from None

    def _start(self) -> None:
        with self._lock:
            if self._killed:
                raise _unsent("given up before its process was started")
            try:
                self._process = subprocess.Popen(
                    [sys.executable, _CHILD],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,
                )
            except OSError as wrong:
                raise _unsent(f"no process could be started: {wrong}") from wrong

    def _clean_up(self) -> None:
        process = self._process
        assert process is not None  # it was started
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    # -- asking -------------------------------------------------------------------------------------------------------

    def _asked(self, address: Address, began: float, begin: Callable[[], None]) -> Any:
        answers = self._answers()
        where = {"path": sys.path, "tool": self._tool.name}
        self._send({**where, "module": address.module, "file": address.file, "name": address.name})
        self._until_ready(answers)
        loaded = self._clock.monotonic() - began
        try:
            begin()
        except AttemptError as late:
            raise _unsent(f"{late.message}: its process took {loaded:.1f} s to load {address.module}") from None
        call = {"key": self._call.key, "run": self._call.run, "attempt": self._call.attempt}
        self._send({"args": dict(self._args), "call": {**call, "seconds_left": self._call.seconds_left - loaded}})
        return self._answer(answers)

    def _until_ready(self, answers: Iterator[Json]) -> None:
        for said in answers:
            if "ready" in said:
                return
            if "unloadable" in said:
                why = redacted(f"{self._tool.name} can't be loaded in a process of its own: {said['unloadable']}")
                raise _not_done(why)
            if "ended" in said:
                raise _unsent(f"{self._ended(said['ended'])} before it was asked{self._last_words()}")
        raise _unsent(f"its process was killed before it was asked{self._last_words()}")

    def _answer(self, answers: Iterator[Json]) -> Any:
        garbled = False
        for said in answers:
            match said:
                case {"value": value}:
                    return self._loaded(value)
                case {"raised": str(why)}:
                    # As in the worker's own process: nothing says what happened before it raised.
                    raise AttemptError("raised", redacted(why), True)
                case {"not_done": str(why)}:
                    raise AttemptError(
                        "not_done", redacted(why), bool(said["retry"]), False, False, said["retry_after"]
                    )
                case {"malformed": str(why)}:
                    raise AttemptError("malformed", redacted(why), False, True)
                case {"ended": int(code)} if garbled:
                    raise AttemptError("malformed", f"its answer is no JSON; {self._ended(code)}", True)
                case {"ended": int(code)}:
                    raise AttemptError("crashed", f"{self._ended(code)} without an answer{self._last_words()}", True)
                case _:
                    garbled = True
        raise AttemptError("crashed", f"its process was killed{self._last_words()}", True)

    def _loaded(self, value: Json) -> Any:
        try:
            return self._tool.load(value)
        except ValidationError as wrong:
            why = f"{self._tool.name} returned what it doesn't declare: {explain(wrong)}"
            raise AttemptError("malformed", why, False, True) from None

    # -- pipes --------------------------------------------------------------------------------------------------------

    def _send(self, line: dict[str, Json]) -> None:
        process = self._process
        assert process is not None and process.stdin is not None
        left = memoryview(encode(line) + b"\n")
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its guard says how
            while left:
                left = left[process.stdin.write(left) :]

    def _answers(self) -> Iterator[Json]:
        """Each line it says, decoded; one that is no JSON object as {}. Ends when nobody can say more."""
        begun = bytearray()  # the line that isn't whole yet
        for chunk in self._chunks():
            *whole, rest = chunk.split(b"\n")
            for part in whole:
                line, begun = bytes(begun + part), bytearray()
                if line:
                    yield _decoded(line)
            begun += rest
            if len(begun) > ANSWER_BYTES_MAX:
                self._too_much(begun)

    def _chunks(self) -> Iterator[bytes]:
        process = self._process
        assert process is not None and process.stdout is not None and process.stderr is not None
        with selectors.DefaultSelector() as looks:
            looks.register(process.stdout, selectors.EVENT_READ)
            looks.register(process.stderr, selectors.EVENT_READ)
            while process.stdout in looks.get_map():
                ready = [key.fileobj for key, _ in looks.select(_LOOK_SECONDS)]
                if not ready and self._killed:
                    return
                for pipe in sorted(ready, key=lambda pipe: pipe is process.stdout):  # its last words before its end
                    chunk = os.read(pipe.fileno(), _CHUNK)  # type: ignore[union-attr] # we registered pipes
                    if not chunk:
                        looks.unregister(pipe)
                    elif pipe is process.stdout:
                        yield chunk
                    else:
                        self._noise = (self._noise + chunk)[-_NOISE_BYTES:]

    def _too_much(self, said: bytearray) -> NoReturn:
        happened = True if said.startswith(b'{"value"') else None
        why = f"{self._tool.name} returned more than {ANSWER_BYTES_MAX // 1_000_000} MB: return less, or where it lies"
        raise AttemptError("malformed", why, False, happened)

    def _ended(self, code: int) -> str:
        if code >= 0:
            return f"its process ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"its process was ended by {name}"

    def _last_words(self) -> str:
        lines = self._noise.decode("utf-8", "replace").strip().splitlines()
        return redacted(f"; it said: {lines[-1][:200]}") if lines else ""


def _decoded(line: bytes) -> Json:
    try:
        said = decode(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _unsent(why: str) -> AttemptError:
    return AttemptError("unsent", why, True, happened=False, billed=False)


def _not_done(why: str) -> AttemptError:
    return AttemptError("not_done", why, False, happened=False, billed=False)
