"""`interlock check --connect`: what servers say when they are asked, beside what is declared of their tools."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.agent.served import HOSTILE, lines, nobody_lives
from tests.cli.terminal import Terminal

TARGET = """
from typing import Literal
from pydantic import BaseModel
from interlock import Limits, Machine, Turn, final, mcp_server, state

class Case(BaseModel):
    text: str = ""

here = mcp_server("here", command={command!r})
gone = mcp_server("gone", command=["/no/such/program"])

@state(tools=[{tools}])
async def work(turn: Turn[Case]) -> Literal["done"]:
    return "done"

machine = Machine("m", Case, limits=Limits(turns=3), table={{"work": work.then({{"done": "end"}}), "end": final()}})
"""


def target(folder: Path, tools: str) -> str:
    command = [sys.executable, "-S", str(HOSTILE), str(folder)]
    (folder / "target.py").write_text(TARGET.format(command=command, tools=tools))
    return f"{folder / 'target.py'}:machine"


def test_without_connect_no_server_is_started(terminal: Terminal, tmp_path: Path) -> None:
    said = terminal.here("check", target(tmp_path, 'here.tool("echo"), gone.tool("x")'))
    assert said.code == 0 and "m: ok" in said.out
    assert lines(tmp_path, "starts") == []


def test_servers_that_have_what_is_declared_are_fine_and_ended(terminal: Terminal, tmp_path: Path) -> None:
    said = terminal.here("check", target(tmp_path, 'here.tool("echo"), here.tool("put", keyed="key")'), "--connect")
    assert said.code == 0 and "m: ok" in said.out
    assert len(lines(tmp_path, "starts")) == 1 and nobody_lives(tmp_path)


def test_what_a_server_does_not_have_is_named(terminal: Terminal, tmp_path: Path) -> None:
    tools = 'here.tool("ecko"), here.tool("put", keyed="token"), gone.tool("x")'
    said = terminal.here("check", target(tmp_path, tools), "--connect")
    assert said.code == 1
    assert "tool `ecko`: `here` has no such tool; did you mean `echo`?" in said.out
    assert "tool `put`: it takes no `token`, which is to take the key" in said.out
    assert "`gone` can't be started" in said.out and "3 errors" in said.out


def test_doctor_says_what_servers_need_and_starts_none(terminal: Terminal, tmp_path: Path) -> None:
    there = target(tmp_path, 'here.tool("echo"), gone.tool("x")')
    text = (tmp_path / "target.py").read_text()
    (tmp_path / "target.py").write_text(text.replace('"here", ', '"here", env={"TOKEN": "{NO_SUCH_VARIABLE}"}, '))
    said = terminal.here("doctor", there)
    assert said.code == 1
    assert "server `here` needs NO_SUCH_VARIABLE in the worker's environment" in said.out
    assert "server `gone`: /no/such/program is not there, or is no program" in said.out
    assert lines(tmp_path, "starts") == []


def test_a_server_that_contradicts_a_declaration_is_worth_a_look(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("honest")
    said = terminal.here("check", target(tmp_path, 'here.tool("put", does="read")'), "--connect")
    assert said.code == 0 and "warning" in said.out
    assert "tool `put`: it is declared to read, and its server says that it changes something" in said.out
