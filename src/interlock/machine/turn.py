"""What a code state gets: `Turn`, its only way to the record and the outside. Abstract; the engine implements it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, ParamSpec, overload

from pydantic import BaseModel
from typing_extensions import TypeVar

from interlock.machine.tools import Tool

R = TypeVar("R", bound=BaseModel)
D = TypeVar("D", default=None)
P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V", default=None)
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Reply(Generic[V]):
    """What a model answered, and which. `value` is the structured output when `returns=` was given. Money in
    nano-dollars."""

    text: str
    value: V
    model: str
    tokens_in: int
    tokens_out: int
    nanousd: int


class Turn(ABC, Generic[R, D]):
    """One visit to one state. Everything awaited on it is an effect: committed before it starts, recorded when it
    ends, and answered from the record when the turn is entered again after a crash.

    A handler must therefore ask for the same effects in the same order given the same answers; `gather` is fine.
    """

    @property
    @abstractmethod
    def record(self) -> R:
        """The record, as far as the state's grants reach. Takes field assignment and list `append`/`extend`; nested
        values are frozen. Raises `NotGranted`, `BadInput`, `FrozenValue`. Written in the commit that ends the turn."""

    @property
    @abstractmethod
    def deps(self) -> D:
        """What the machine's `deps` opened, once per worker."""

    @property
    @abstractmethod
    def run(self) -> str:
        """The run's id."""

    @property
    @abstractmethod
    def number(self) -> int:
        """The turn's number in its run, from 1; it never repeats."""

    @overload
    async def model(
        self,
        model: str | Sequence[str],
        prompt: str,
        *,
        max_tokens: int | None = None,
        within: float | None = None,
    ) -> Reply[None]: ...
    @overload
    async def model(
        self,
        model: str | Sequence[str],
        prompt: str,
        *,
        returns: type[M],
        max_tokens: int | None = None,
        within: float | None = None,
    ) -> Reply[M]: ...
    @abstractmethod
    async def model(
        self,
        model: str | Sequence[str],
        prompt: str,
        *,
        returns: Any = None,
        max_tokens: int | None = None,
        within: float | None = None,
    ) -> Any:
        """Ask a granted model once. Of several, in order, the first that is available: a model is passed over while its
        breaker is open, and when it refuses the key, its quota is used up or its attempts are spent; `reply.model` is
        the one that answered. `returns=` asks for that pydantic model as `reply.value`."""

    @abstractmethod
    async def call(self, tool: Tool[Any, P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a granted tool with checked arguments."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait durably: long waits hold no worker and survive a restart."""

    @abstractmethod
    async def now(self) -> datetime:
        """The time (UTC), recorded: the same again on re-entry."""

    @abstractmethod
    async def random(self) -> float:
        """A number from 0 up to 1, recorded: the same again on re-entry."""
