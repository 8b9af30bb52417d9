"""What a machine may not be: its servers. One test per refusal; no server is asked for any of them."""

from __future__ import annotations

from typing import Any

import pytest

from interlock import mcp_server
from interlock.machine.check import findings_of
from interlock.machine.servers import Server
from interlock.machine.states import use
from interlock.machine.version import content_of
from tests.machine.support_refusals import alone, assert_says, choose, defined, said, stands_at


def granting(server: Server, **terms: Any) -> dict[str, Any]:
    """A table with one state that may use one tool of a server."""
    return alone(choose(tools=[server.tool("read_file", does="read", **terms)]))


def sound(name: str = "files", **settings: Any) -> Server:
    return mcp_server(name, command=["serve", "files"], **settings)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (mcp_server("files"), ("one way", "command=[...]", "url=")),
        (mcp_server("files", command=["serve"], url="https://host/mcp"), ("one way",)),
        (mcp_server("my files", command=["serve"]), ("name is none",)),
        (mcp_server("files", command=[""]), ("`command`", "list of texts")),
        (mcp_server("files", url="host/mcp"), ("'host/mcp'", "no address")),
        (mcp_server("files", url="ftp://host/mcp"), ("no address",)),
        (mcp_server("files", url="https://me:pw@host/mcp"), ("password", "headers=")),
        (mcp_server("files", url="https://host/mcp", env={"MODE": "x"}), ("`env` is for a command",)),
        (mcp_server("files", command=["serve"], headers={"X-Mode": "x"}), ("`headers` are for an address",)),
        (mcp_server("files", command=["serve"], env={"API_TOKEN": "abc123"}), ("looks like a secret", "{NAME}")),
        (mcp_server("files", url="https://host", headers={"Authorization": "Bearer x"}), ("looks like a secret",)),
        (mcp_server("files", command=["serve"], env={"MODE": "a\nb"}), ("one line",)),
        (mcp_server("files", command=["serve"], start_within=0), ("start_within=0", "above 0")),
        (mcp_server("files", command=["serve"], result_bytes_max=0), ("bounds", "whole numbers")),
    ],
)
def test_a_server_can_be_reached_as_it_is_declared(declared: Server, words: tuple[str, ...]) -> None:
    found = said("server", granting(declared))
    assert_says(found, "first", "server `", *words)
    assert stands_at(found, "mcp_server(")


def test_a_name_is_one_server() -> None:
    tools = [sound().tool("one", does="read"), mcp_server("files", command=["other"]).tool("two", does="read")]
    assert_says(said("server", alone(choose(tools=tools))), "first", "another server of this name")
    again = [sound().tool("one", does="read"), sound().tool("two", does="read")]  # declared twice alike: the same
    assert findings_of(defined(alone(choose(tools=again)))) == []


def test_what_an_error_means_is_one_of_two() -> None:
    wrong: Any = "nothing"
    assert_says(said("server", granting(sound(), error_means=wrong)), "first", "error_means='nothing'", "not_done")


def test_a_machine_with_a_server_is_sound_though_nobody_asks_the_server() -> None:
    assert findings_of(defined(granting(sound(env={"TOKEN": "{FILES_TOKEN}"})))) == []
    tool = sound().tool("write_file", does="write", keyed="key", undo=lambda call, result, path: None)
    table = alone(use(tool, args={"path": "order_id", "content": "question"}), done="done")
    assert findings_of(defined(table)) == []


def test_what_is_not_declared_is_the_strictest() -> None:
    tool = sound().tool("anything")
    assert (tool.does, tool.way, tool.trusted) == ("send", "person", False)


def test_a_tool_is_named_so_that_a_model_can_choose_it() -> None:
    assert sound().tool("get-sum").name == "get_sum"
    assert sound().tool("admin.reset", name="reset").name == "reset"


@pytest.mark.parametrize(
    "other",
    [
        mcp_server("files", command=["serve", "other"]).tool("read_file", does="read"),
        sound(env={"MODE": "x"}).tool("read_file", does="read"),
        sound().tool("read_files", does="read", name="read_file"),
        sound().tool("read_file", does="write"),
        sound().tool("read_file", does="read", error_means="not_done"),
    ],
)
def test_another_way_to_a_tool_is_other_content(other: Any) -> None:
    def content(tool: Any) -> str:
        return content_of(defined(alone(choose(tools=[tool]))))

    assert content(sound().tool("read_file", does="read")) == content(sound().tool("read_file", does="read"))
    assert content(other) != content(sound().tool("read_file", does="read"))
