"""Yes and no on the command line: what is asked is shown whole, a yes is for that alone, bad input is one line."""

from __future__ import annotations

import json
import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.terminal import Terminal

TILL = """
import asyncio
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from interlock import Call, Limits, Machine, Turn, ask, final, state, tool, use


class Order(BaseModel):
    order_id: str
    cents: int = 500
    note: str = ""


@tool(does="write", keyed=True, within=10, approve="finance", approve_within=3600, usd_max=0.5)
async def refund(call: Call[None], order_id: str, cents: int) -> str:
    with Path("paid.txt").open("a") as book:
        book.write(f"{order_id} {cents}\\n")
    return "paid"


@state(tools=[refund], calls=2)
async def twice(turn: Turn[Order]) -> Literal["done"]:
    await asyncio.gather(*(turn.call(refund, turn.record.order_id, cents) for cents in (1, 2)))
    return "done"


ends = {"closed": final("completed"), "lost": final("failed")}
person = ask("And now?", of="support", writes={"drop": []}).then({"drop": "lost", "timeout": "lost"})
pay = use(refund, args={"order_id": "order_id", "cents": "cents"})
till = Machine("till", Order, limits=Limits(usd=9), table={
    "pay": pay.then({"done": "closed", "denied": "person", "timeout": "lost"}), "person": person, **ends,
})
both = Machine("both", Order, limits=Limits(usd=9), table={"pay": twice.then({"done": "closed"}), "closed": final()})
"""


class Till(Terminal):
    def asking(self, machine: str = "till", order: str = "A-17") -> str:
        record = json.dumps({"order_id": order})
        done = self.here("run", f"{self.folder / 'tills.py'}:{machine}", "--input", record, "--json")
        assert done.code == 3, done
        return str(done.json["run"])

    def goes_on(self, run: str, machine: str = "till") -> int:
        return self.here("run", f"{self.folder / 'tills.py'}:{machine}", "--run", run, "--json").code

    @property
    def paid(self) -> list[str]:
        book = self.folder / "paid.txt"
        return book.read_text().splitlines() if book.exists() else []


@pytest.fixture
def till(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Till]:
    monkeypatch.chdir(tmp_path)
    path, loaded = list(sys.path), set(sys.modules)
    (tmp_path / "tills.py").write_text(TILL)
    yield Till(tmp_path, capsys)
    sys.path[:] = path
    for name in set(sys.modules) - loaded:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_what_is_approved_is_called_and_everybody_is_told(till: Till) -> None:
    run = till.asking()
    said = till.here("show", run).out
    assert 'why     `finance` is asked to approve refund(order_id="A-17", cents=500)' in said
    assert f"interlock approve {run[:4]}  | deny {run[:4]}" in said
    done = till.here("approve", run, "--by", "ann", "--reason", "agreed", "--yes")
    assert (
        done.code == 0 and 'approved refund(order_id="A-17", cents=500)' in done.out and "lies in the inbox" in done.out
    )
    assert till.paid == [] and till.goes_on(run) == 0
    assert till.paid == ["A-17 500"]
    log = till.here("log", run).out
    assert "asks `finance` to approve" in log and "answered `approve` by ann: agreed" in log and "approved" in log


def test_what_is_denied_is_not_called(till: Till) -> None:
    run = till.asking()
    document = till.here("deny", run, "--by", "ann", "--yes", "--json").json
    assert document["ok"] and document["run"] == run and not document["held"]
    assert till.goes_on(run) == 3 and till.paid == []
    assert till.shown(run)["state"] == "person"


def test_arguments_may_be_changed_and_are_shown_as_they_will_be(till: Till) -> None:
    run = till.asking()
    done = till.here("approve", run, "--set", "cents=300", "--yes")
    assert 'approved refund(order_id="A-17", cents=300)' in done.out
    assert till.goes_on(run) == 0 and till.paid == ["A-17 300"]


def test_each_answer_says_what_it_will_do(till: Till) -> None:
    till.asking()
    (handed,) = till.here("waiting", "--json").json["waiting"]
    assert (handed["machine"], handed["state"], handed["why"], handed["of"]) == ("till", "pay", "approve", "finance")
    assert handed["record"] == {"order_id": "A-17", "cents": 500, "note": ""}
    does = {choice["answer"]: choice for choice in handed["choices"]}
    assert does["approve"]["to"] == "closed" and does["approve"]["ends"] == "completed"
    assert does["approve"]["usd_max"] == 2.0, "half a dollar, four attempts"
    assert 'refund(order_id="A-17", cents=500) is called, once' in does["approve"]["does"]
    assert "is not called" in does["deny"]["does"] and does["deny"]["to"] == "person"
    assert does["edit"]["fields"] == ["order_id", "cents"] and does["edit"]["required"] == []
    assert handed["unanswered"] == "the turn ends `timeout`: the run ends failed in `lost`"
    assert [event["type"] for event in handed["last"]] == ["run_started", "wait_opened"]
    said = till.here("waiting").out
    assert does["approve"]["does"] in said and "unanswered, the turn ends `timeout`" in said


def test_the_question_shows_the_whole_call_before_it_asks(till: Till) -> None:
    """However long: what is cut off can't be agreed to."""
    order = "A" * 3_000 + "\u0430\u202e"
    run = till.asking(order=order)
    shown = "A" * 3_000 + "\\u0430\\u202e"
    master, slave = pty.openpty()
    os.write(master, b"n\n")
    process = till.begin("approve", run, stdin=slave, stderr=slave)
    out, _ = process.communicate(timeout=60)
    os.close(slave)
    said = b""
    while True:
        try:
            said += os.read(master, 65_536)
        except OSError:
            break
    os.close(master)
    assert process.returncode == 1 and out == ""
    assert shown in said.decode() and "Go on? [y/N]" in said.decode() and "nothing was changed" in said.decode()
    assert till.shown(run)["waiting"] != []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["approve"], ["RUN"]),
        (["approve", "nosuch"], ["nosuch"]),
        (["approve", "@last"], ["this would approve refund(", "say --yes"]),
        (["deny", "@last"], ["this would deny refund(", "say --yes"]),
        (["approve", "@last", "--wait", "7", "--yes"], ["asks for no approval in wait 7"]),
        (["approve", "@last", "--wait", "one", "--yes"], ["--wait"]),
        (["approve", "@last", "--set", "cents", "--yes"], ["--set cents: write field=value"]),
        (["approve", "@last", "--set", "euros=3", "--yes"], ["--set euros", "refund takes order_id, cents"]),
        (["approve", "@last", "--set", "cents=many", "--yes"], ["edit: cents", "integer"]),
        (["approve", "@last", "--set", "cents=" + "[" * 100_000, "--yes"], ["--set cents", "nested too deeply"]),
        (["approve", "@last", "--set", "cents=NaN", "--yes"], ["cents"]),
        (["deny", "@last", "--set", "cents=3", "--yes"], ["--set"]),
        (["resolve", "@last", "approve", "--yes"], ["a call waits for a yes or no", "interlock approve|deny"]),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(till: Till, args: list[str], words: list[str]) -> None:
    run = till.asking()
    done = till.here(*args)
    done.refused(*words)
    before = till.shown(run)
    assert before["status"] == "waiting" and len(before["waiting"]) == 1
    assert till.here("log", run).out.count("answered") == 0


def test_as_programs_too_bad_input_is_one_line(till: Till) -> None:
    run = till.asking()
    till.run("approve", run).refused("say --yes")
    till.run("approve", run, "--set", "euros=1", "--yes").refused("refund takes")
    till.run("deny", run, "--wait", "9", "--yes").refused("no approval in wait 9")
    till.run("approve", run, "--yes", "--store", "sqlite:///nothing.db").refused("nothing.db")
    assert not (till.folder / "nothing.db").exists()
    done = till.run("approve", run, "--yes", "--json", "--by", "ann")
    assert done.code == 0 and done.json["ok"] and done.err == ""
    till.run("deny", run, "--yes").refused("wait 1 was answered first, by ann at", "approve")


def test_of_several_calls_one_is_named(till: Till) -> None:
    run = till.asking("both")
    till.here("approve", run, "--yes").refused("several approvals", "1 (refund), 2 (refund)")
    assert "wait 2: approve" in till.here("show", run).out
    assert till.here("deny", run, "--wait", "2", "--yes").code == 0
    till.here("approve", run, "--wait", "2", "--yes").refused("answered first")
    assert till.here("approve", run, "--yes").code == 0, "only one is left"
    assert till.goes_on(run, "both") == 3 and till.paid == []


def test_a_run_that_waits_for_something_else_takes_no_approval(till: Till) -> None:
    run = till.asking()
    till.here("deny", run, "--by", "ann", "--yes")
    assert till.goes_on(run) == 3
    till.here("approve", run, "--yes").refused("asks for no approval")
    till.here("resolve", run, "drop", "--by", "bob", "--yes")
    till.here("resolve", run, "drop", "--yes").refused("answered first, by bob at")
    assert till.goes_on(run) == 1
    till.here("deny", run, "--yes").refused("asks for no approval")


def test_no_verb_shows_what_deceives(till: Till) -> None:
    """A look-alike, a direction mark and a character without width, in what is to be approved and in what is said."""
    sly = "p\u0430y\u202e\u200b"
    run = till.asking(order=sly)
    till.here("deny", run, "--by", sly, "--reason", sly, "--yes")
    assert till.goes_on(run) == 3
    other = till.asking(order=sly)
    for args in (
        [],
        ["show", run],
        ["show", other],
        ["log", run],
        ["waiting"],
        ["runs"],
        ["doctor"],
        ["approve", other],
    ):
        done = till.here(*args)
        assert not set("\u0430\u202e\u200b") & set(done.out + done.err), args
    assert "p\\u0430y\\u202e\\u200b" in till.here("log", run).out
