"""Where laws meet: what a handler leaves behind, what arrives at the worst moment, what a record's own class refuses.

Each test is a way in which a run was once stuck, ended too soon, or lost what somebody had said.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_validator, model_validator

from interlock import (
    BadInput,
    Call,
    Client,
    InterlockError,
    InvalidMachine,
    Machine,
    NotDone,
    Turn,
    Worker,
    ask,
    final,
    model_state,
    state,
    tool,
)
from interlock.agent.model import ModelReply
from interlock.errors import StoreError
from interlock.history import events as e
from interlock.machine.limits import Limits
from interlock.store.protocol import Answer, Commit, Failed, InboxItem, Join, Leave, Store, Write
from interlock.testing import Played, ScriptedModel, choose, say
from tests.laws.machines import MODEL, Case, Tools, machine
from tests.laws.stage import Stage, on_stage
from tests.stage import play


def of(record: type[BaseModel], handler: Any, name: str = "scene", **more: Any) -> Any:
    """A machine of one code state that ends `done`; what else happens is handed to a person."""
    table = {"work": handler.then({"done": "closed"}), "closed": final("completed")}
    return Machine(name, record, limits=Limits(turns=9), table=table, **more)


def escalated(run: Played[Any]) -> str:
    """What a person is told of a run that was handed over."""
    [wait] = run.result.waits
    assert wait.why == "escalated"
    return f"{wait.outcome}: {wait.prompt}"


@state(within=5)
async def easy(turn: Turn[Case]) -> Literal["done"]:
    return "done"


# -- what a handler leaves behind --------------------------------------------------------------------------------------


def test_a_handler_that_lets_its_own_cancellation_out_ends_in_error() -> None:
    """It awaits a task that it has cancelled itself: nobody cancelled the turn, and the run isn't left lying."""

    @state(within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        task = asyncio.create_task(asyncio.sleep(100))
        task.cancel()
        await task
        return "done"

    assert escalated(play(of(Case, work), Case())).startswith("error: CancelledError")


def test_a_tool_that_raises_a_cancellation_of_its_own_is_in_doubt() -> None:
    @tool(does="write", within=5)
    async def stray(call: Call[None], n: int) -> str:
        raise asyncio.CancelledError

    @state(tools=[stray], within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(stray, 1)
        return "done"

    run = play(of(Case, work), Case())
    assert [wait.why for wait in run.result.waits] == ["doubt"]


@pytest.mark.parametrize("rounds", range(8))
def test_no_run_completes_while_a_task_of_its_handler_writes(rounds: int) -> None:
    """A handler returns while a call that it began is under way: the run completes with its result, or without the
    call; never with a call that may have happened."""
    happened: list[int] = []
    tasks: list[asyncio.Task[Any]] = []

    @tool(does="write", within=5)
    async def write(call: Call[None], n: int) -> str:
        await asyncio.sleep(rounds % 2)
        happened.append(n)
        return "written"

    @state(tools=[write], within=60)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        tasks.append(asyncio.create_task(turn.call(write, 1)))
        for _ in range(rounds):
            await asyncio.sleep(0)
        return "done"

    run = play(of(Case, work), Case())
    said = [event.TYPE for event in run.events]
    assert run.status == "completed" and "attempt_failed" not in said
    assert said.count("tool_called") == said.count("tool_returned") == len(happened)


def test_a_sibling_of_a_failed_call_is_waited_for() -> None:
    """`gather` raises at the first failure and leaves the others running."""
    happened: list[int] = []

    @tool(does="send", within=5)
    async def slow(call: Call[None], n: int) -> str:
        await asyncio.sleep(1)
        happened.append(n)
        return "sent"

    @tool(does="write", within=5)
    async def bad(call: Call[None], n: int) -> str:
        raise NotDone("no")

    @state(tools=[slow, bad], within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        with suppress(InterlockError):
            await asyncio.gather(turn.call(slow, 1), turn.call(bad, 1))
        return "done"

    run = play(of(Case, work), Case())
    assert run.status == "completed" and happened == [1]
    assert [event.value for event in run.events if isinstance(event, e.ToolReturned)] == ["sent"]


@pytest.mark.parametrize("raised", [StopIteration(), SystemExit(3)])
def test_whatever_a_plain_function_raises_is_a_failure_of_its_turn(tmp_path: Path, raised: BaseException) -> None:
    """A future refuses StopIteration, and SystemExit would take the worker down with all its runs."""

    @state(within=5)
    def work(turn: Turn[Case]) -> Literal["done"]:
        raise raised

    async def main() -> None:
        scene = of(Case, work)
        async with Client(f"sqlite:///{tmp_path}/s.db") as client, Worker(client, [scene], watch=False):
            handle = await client.start(scene, Case())
            async with asyncio.timeout(4):
                [wait] = (await handle.result(until_waiting=True)).waits
            assert wait.outcome == "error" and type(raised).__name__ in wait.prompt

    asyncio.run(main())


def exits(*_: Any, **__: Any) -> Any:
    """As a library does that calls `sys.exit`: out of a task it would end the loop, and with it all of its runs."""
    raise SystemExit(3)


@tool(does="read", within=5)
async def exiting(call: Call[None], n: int) -> int:
    return int(exits())


@tool(does="write", within=5, probe=exits)
async def exiting_when_probed(call: Call[None], n: int) -> int:
    raise RuntimeError("in doubt")


@state(within=5)
async def exiting_handler(turn: Turn[Case]) -> Literal["done"]:
    exits()
    return "done"


@state(tools=[exiting], within=60)
async def calls_side_by_side(turn: Turn[Case]) -> Literal["done"]:
    await asyncio.gather(turn.call(exiting, 1), turn.call(exiting, 2))
    return "done"


@state(tools=[exiting_when_probed], within=60)
async def probes(turn: Turn[Case]) -> Literal["done"]:
    await turn.call(exiting_when_probed, 1)
    return "done"


EXITING: dict[str, Any] = {
    "a handler": (exiting_handler, "error"),
    "a tool": (calls_side_by_side, "unavailable"),  # its fifth failure in a row opens its breaker
    "a probe": (probes, None),
    "a prompt": (model_state(exits, model=MODEL, writes={"done": []}), "error"),
}


@pytest.mark.parametrize("who", EXITING)
def test_what_exits_ends_its_turn_and_not_its_worker(who: str) -> None:
    work, outcome = EXITING[who]
    [asked] = play(of(Case, work), Case()).result.waits
    assert asked.outcome == outcome and asked.why == ("escalated" if outcome else "doubt")


# -- what arrives at the worst moment ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["cancel", "pause"])
@pytest.mark.parametrize("reads", [True, False])
def test_what_was_said_during_the_last_turn_comes_before_the_end(verb: str, reads: bool) -> None:
    """Accepted while the run's last turn is under way: a cancelled run doesn't complete, nor does a paused one."""
    tools = Tools(before=10, within=30)

    @state(tools=tools.all, within=60)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        if reads:
            await turn.call(tools.read, 1)
        else:
            await asyncio.sleep(10)
        return "done"

    scene = machine(work)

    async def act(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        await stage.worker(scene)
        await asyncio.sleep(5)
        await getattr(stage.client, verb)("@last", by="ann")
        await asyncio.sleep(30)
        assert stage.status() == {"cancel": "cancelled", "pause": "paused"}[verb]
        assert not stage.store.find("@last").mail
        if verb == "pause":
            await stage.client.resume("@last", by="ann")
            await stage.until(lambda: stage.status() == "completed", 60)

    on_stage(act)
    assert tools.outside.times("read") == reads


def test_a_commit_refused_twice_is_saved_twice() -> None:
    """A question's timer and the next state's call go into one commit; just before it a decision and a pause are
    accepted. The pause refuses it first, the decision what is saved of it. The answer counts, the timer doesn't."""
    tools = Tools()

    @state(tools=tools.all, within=60)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(tools.read, 1)
        return "done"

    asked = ask("Well?", of="ann", writes={"yes": []}, within=10)
    table: dict[str, Any] = {
        "question": asked.then({"yes": "answered", "timeout": "work"}),
        "work": work.then({"done": "late"}),
        "answered": final("completed"),
        "late": final("failed"),
    }
    scene: Any = Machine("scene", Case, limits=Limits(turns=9), table=table)

    async def act(stage: Stage) -> None:
        left: list[str] = []

        def leave(write: Write) -> str:
            if isinstance(write, Commit) and write.begins and not left:
                run, said = stage.store.find("@last").id, {"by": "ann", "reason": ""}
                decision = {"wait": 1, "outcome": "yes", "fields": {}, **said}
                answers = stage.store.write(
                    [
                        Leave(run, InboxItem("d", "decision", decision), 1, 1, "decision"),
                        Leave(run, InboxItem("p", "pause", said), 1),
                    ]
                )
                left.extend(type(answer).__name__ for answer in answers)
            return ""

        await stage.client.start(scene, Case(), by="test")
        await stage.worker(scene, fail=leave)
        await stage.until(lambda: stage.status() == "paused", 60)
        assert left == ["Left", "Left"] and stage.of(e.Paused)[0].by == "ann"
        await stage.client.resume("@last", by="ann")
        await stage.until(lambda: stage.status() == "completed", 60)

    on_stage(act)


def test_what_a_handler_asks_for_while_it_is_cancelled_is_not_recorded() -> None:
    """Its turn is parked; entered again, it isn't cancelled and doesn't ask: that would be a divergence."""
    asked: list[int] = []

    @tool(does="read", within=5)
    async def later(call: Call[None], n: int) -> str:
        asked.append(n)
        if len(asked) == 1:
            raise NotDone("later", retry=True, retry_after=100)
        return "now"

    @state(tools=[later], within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        try:
            await turn.call(later, 1)
        except asyncio.CancelledError:
            await turn.now()
            raise
        return "done"

    run = play(of(Case, work), Case())
    assert run.status == "completed" and "value_noted" not in [event.TYPE for event in run.events]


@pytest.mark.parametrize("seconds", [1e30, float("inf"), float("nan")])
def test_who_asks_to_be_left_alone_for_ever_is_not_asked_again(seconds: float) -> None:
    """Neither at once (such a time can't be stored) nor ever."""
    asked: list[int] = []

    @tool(does="read", within=5)
    async def later(call: Call[None], n: int) -> str:
        asked.append(n)
        raise NotDone("later", retry=True, retry_after=seconds)

    @state(tools=[later], within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(later, 1)
        return "done"

    assert escalated(play(of(Case, work), Case())).startswith("error: later") and asked == [1]


# -- workers and clients -----------------------------------------------------------------------------------------------


def test_a_run_whose_commits_the_store_refuses_is_parked_and_not_tried_for_ever() -> None:
    """A provider that bills more tokens than a number of the store holds."""
    silly = ScriptedModel(lambda request: ModelReply(text="x", tokens_in=2**70, tokens_out=1))

    @state(models=[MODEL], within=600)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.model(MODEL, "x")
        return "done"

    scene = machine(work)

    async def act(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        await stage.worker(scene)
        await stage.until(lambda: stage.status() == "paused", 300)
        assert "too large" in stage.store.find("@last").reason

    logging.disable(logging.ERROR)
    try:
        on_stage(act, silly)
    finally:
        logging.disable(logging.NOTSET)


class OneJoinFails:
    """A store on a disk that is full when a worker joins for the second time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.joins = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        self.joins += sum(isinstance(write, Join) for write in batch)
        if self.joins == 2 and any(isinstance(write, Join) for write in batch):
            return [Failed(StoreError("the disk is full")) for _ in batch]
        return self._store.write(batch)


def test_a_worker_that_was_struck_off_joins_again_however_often_it_takes() -> None:
    async def act(stage: Stage) -> None:
        scene, store = machine(easy), OneJoinFails(stage.store)
        await stage.worker(scene, store=store)
        await asyncio.sleep(1)
        stage.store.begin_epoch()  # type: ignore[attr-defined]  # strikes every worker off
        await asyncio.sleep(20)
        await stage.client.start(scene, Case(), by="test")
        await stage.until(lambda: stage.status() == "completed", 60)
        assert store.joins == 3

    on_stage(act)


def test_a_closed_client_says_so_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with Client(f"sqlite:///{tmp_path}/s.db") as client:
            pass
        with pytest.raises(StoreError, match="closed"):
            async with asyncio.timeout(3):
                await client.start(of(Case, easy), Case())

    asyncio.run(main())


def test_two_machines_of_one_name_are_refused_by_the_worker(tmp_path: Path) -> None:
    async def main() -> None:
        async with Client(f"sqlite:///{tmp_path}/s.db") as client:
            with pytest.raises(BadInput, match="two machines are named 'scene'"):
                Worker(client, [of(Case, easy), machine(easy)])

    asyncio.run(main())


def test_what_was_opened_is_closed_when_another_dependency_can_t_be(tmp_path: Path) -> None:
    said: list[str] = []

    @asynccontextmanager
    async def opens() -> AsyncIterator[None]:
        said.append("open")
        try:
            yield
        finally:
            said.append("closed")

    @asynccontextmanager
    async def fails() -> AsyncIterator[None]:
        if said:
            raise OSError("not there")
        yield

    async def main() -> None:
        scenes = [of(Case, easy, "one", deps=opens), of(Case, easy, "two", deps=fails)]
        async with Client(f"sqlite:///{tmp_path}/s.db") as client:
            with pytest.raises(OSError, match="not there"):
                await Worker(client, scenes).__aenter__()
            assert said == ["open", "closed"]

    asyncio.run(main())


# -- records and arguments ---------------------------------------------------------------------------------------------


class Line(BaseModel):
    order_id: str = Field(alias="orderId")


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")

    lines: list[Line] = []
    last: Line | None = None

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way to write it
    @property
    def count(self) -> int:
        return len(self.lines)


def test_aliases_and_computed_fields_come_back() -> None:
    """In the record, in arguments and in results: they are stored by name, and read by either."""

    @tool(does="write", within=5)
    async def order(call: Call[None], line: Line) -> Line:
        return line

    @state(tools=[order], writes=["lines", "last"], within=20)
    async def work(turn: Turn[Aliased]) -> Literal["done"]:
        turn.record.last = await turn.call(order, Line(orderId="A"))
        turn.record.lines.append(Line(orderId="B"))
        assert turn.record.last.order_id == "A"
        return "done"

    run = play(of(Aliased, work), Aliased())
    assert run.status == "completed"
    assert run.record == Aliased(lines=[Line(orderId="B")], last=Line(orderId="A"))


class Meter(BaseModel):
    reads: int = 1
    writes: list[str] = []


def test_a_field_may_have_any_public_name() -> None:
    @state(writes=["reads", "writes"], within=20)
    async def work(turn: Turn[Meter]) -> Literal["done"]:
        turn.record.reads += 1
        turn.record.writes.append("a")
        return "done"

    assert play(of(Meter, work), Meter()).record == Meter(reads=2, writes=["a"])


class Checked(BaseModel):
    low: int = 0
    high: int = 10
    name: str = ""
    few: Annotated[list[str], Field(max_length=2)] = []
    tags: set[str] = set()

    @field_validator("name")
    @classmethod
    def _tidy(cls, name: str) -> str:
        if "!" in name:
            raise ValueError("no shouting")
        return name.strip()

    @model_validator(mode="after")
    def _ordered(self) -> Checked:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


WRONG: dict[str, Any] = {
    "a field's validator": lambda record: setattr(record, "name", "hey!"),
    "the class's validator": lambda record: setattr(record, "low", 50),
    "a list beyond its bound": lambda record: record.few.extend(["a", "b", "c"]),
    "a set changed in place": lambda record: record.tags.add("x"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_record_never_becomes_what_its_class_refuses(what: str) -> None:
    """Else nobody could read the result of a run that has completed."""

    @state(writes=["low", "name", "few", "tags"], within=20)
    async def work(turn: Turn[Checked]) -> Literal["done"]:
        WRONG[what](turn.record)
        return "done"

    run = play(of(Checked, work), Checked())
    assert escalated(run).startswith("error: ") and run.record == Checked()


class Few(BaseModel):
    bounded: Annotated[list[str], Field(max_length=2)] | None = []
    free: list[str] | None = []


def test_a_bound_on_a_list_that_may_be_none_bounds_appending_too() -> None:
    @state(writes=["bounded", "free"], within=20)
    async def work(turn: Turn[Few]) -> Literal["done"]:
        assert turn.record.bounded is not None and turn.record.free is not None
        for item in "abc":
            turn.record.free.append(item)
            turn.record.bounded.append(item)
        return "done"

    run = play(of(Few, work), Few())
    assert escalated(run).startswith("error: record field `bounded`")
    assert run.record == Few()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, list, lambda items: pickle.loads(pickle.dumps(items))])
def test_a_copy_of_a_list_of_the_record_is_the_handler_s_own(copied: Any) -> None:
    @state(writes=["items"], within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        mine = copied(turn.record.items)
        assert mine == ["a", "b"]
        mine.sort(reverse=True)
        mine.append("c")
        return "done"

    run = play(of(Case, work), Case(items=["a", "b"]))
    assert (run.status, run.record.items) == ("completed", ["a", "b"])


class Strict(BaseModel):
    share: Annotated[float, Field(strict=True)] = 0.0


def test_a_number_that_could_not_be_read_back_is_refused_when_it_is_written() -> None:
    """No number is stored by its name, which a strict field refuses: the run could never be shown again."""

    @state(writes=["share"], within=20)
    async def work(turn: Turn[Strict]) -> Literal["done"]:
        turn.record.share = float("nan")
        return "done"

    run = play(of(Strict, work), Strict())
    assert escalated(run).startswith("error: record field `share`")


def test_what_validators_make_of_a_value_is_what_is_stored() -> None:
    @state(writes=["name", "few"], within=20)
    async def work(turn: Turn[Checked]) -> Literal["done"]:
        turn.record.name = "  ann "
        turn.record.few.append("a")
        turn.record.few.append("b")
        return "done"

    run = play(of(Checked, work), Checked())
    assert run.record == Checked(name="ann", few=["a", "b"])
    [end] = [event for event in run.events if isinstance(event, e.Transitioned)]
    assert end.changes == (("set", "name", "ann"), ("add", "few", ["a", "b"]))


def test_a_model_is_told_what_the_record_refuses() -> None:
    table: dict[str, Any] = {
        "work": model_state("Choose", model=MODEL, writes={"done": ["low"]}).then({"done": "closed"}),
        "closed": final("completed"),
    }
    scene: Any = Machine("scene", Checked, limits=Limits(turns=9), table=table)
    run = play(scene, Checked(), model=[choose("done", low=50), choose("done", low=5)])
    assert run.record.low == 5
    assert ["low is above high" in event.told for event in run.events if isinstance(event, e.MoveRefused)] == [True]


def test_an_instance_that_was_spoilt_after_it_was_made_is_refused_at_the_door() -> None:
    case = Case()
    case.n = "many"  # type: ignore[assignment]  # pydantic lets it through
    with pytest.raises(BadInput, match="`n`"):
        play(of(Case, easy), case)


def test_sets_have_one_order_in_every_process() -> None:
    """Else a turn entered again in another process would ask for another effect, and a set would seem to change."""
    words = [f"word {n}" for n in range(40)]

    @tool(does="read", within=5)
    async def look(call: Call[None], words: set[str], nested: dict[str, frozenset[str]]) -> int:
        return len(words)

    @state(tools=[look], writes=["tags"], within=20)
    async def work(turn: Turn[Checked]) -> Literal["done"]:
        await turn.call(look, set(words), {"a": frozenset(words)})
        turn.record.tags = set(words)
        return "done"

    run = play(of(Checked, work), Checked(tags=set(words[:20])))
    [called] = [event for event in run.events if isinstance(event, e.ToolCalled)]
    [end] = [event for event in run.events if isinstance(event, e.Transitioned)]
    assert called.args == {"words": sorted(words), "nested": {"a": sorted(words)}}
    assert end.changes == (("set", "tags", sorted(words)),)
    [started] = [event for event in run.events if isinstance(event, e.RunStarted)]
    assert started.record["tags"] == sorted(words[:20])


NOTHING: Any = None  # as in `text: str = None`, which people write


def test_a_default_that_its_parameter_refuses_is_refused_before_anything_runs() -> None:
    """It can't be read back when the call is sent: what surely never happened would be a doubt."""

    @tool(does="write", within=5)
    def note(call: Call[None], n: int, text: str = NOTHING) -> str:
        return text

    @state(tools=[note], within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(note, 1)
        return "done"

    with pytest.raises(InvalidMachine, match="`text` has a default that doesn't fit its type"):
        of(Case, work)


SILLY: dict[str, Any] = {
    "fewer than no tokens": lambda turn: turn.model(MODEL, "x", max_tokens=-(10**9)),
    "no time": lambda turn: turn.model(MODEL, "x", within=-1.0),
    "a sleep beyond all time": lambda turn: turn.sleep(1e18),
    "a sleep that is no number": lambda turn: turn.sleep(float("nan")),
}


@pytest.mark.parametrize("what", SILLY)
def test_a_figure_that_is_none_ends_the_turn_in_error_and_starts_nothing(what: str) -> None:
    @state(models=[MODEL], within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await SILLY[what](turn)
        return "done"

    run = play(of(Case, work), Case(), model=[say("x")])
    assert escalated(run).startswith("error: ")
    assert not any(isinstance(event, e.ModelCalled) for event in run.events)
