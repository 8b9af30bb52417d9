"""`work --notify` and `interlock notices`: who is told, what isn't delivered, and what a person does about it."""

from __future__ import annotations

import signal

import pytest

from interlock.webhook import genuine
from tests.cli.terminal import Terminal, ended, until_it_says
from tests.notices.receiver import SECRET, Receiver


def told(terminal: Terminal, receiver: Receiver, word: str) -> str:
    """A run that waits for a person, and what a notifying worker said until the outbox says `word`."""
    run = terminal.started()
    environ = {"INTERLOCK_WEBHOOK_SECRET": SECRET}
    process = terminal.begin("work", terminal.target("note"), "--json", "--notify", receiver.url, environ=environ)
    said = until_it_says(process, "ready")
    receiver.until(1)
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert done.code == 0 and SECRET not in said + done.out + done.err
    assert word in terminal.here("notices", "--all").out
    return run


def test_a_worker_that_notifies_says_where_to_and_the_receiver_is_told(terminal: Terminal) -> None:
    with Receiver() as receiver:
        run = told(terminal, receiver, "delivered")
        (heard,) = receiver.heard
    data = genuine(heard.body, heard.headers, SECRET)["data"]
    assert (data["run"], data["role"], data["choices"]) == (run, "ops", ["handled", "drop"])
    (notice,) = terminal.here("notices", "--all", "--json").json["notices"]
    assert (notice["id"], notice["status"], notice["run"]) == (heard.id, "delivered", run)
    assert notice["body"]["data"] == data
    assert terminal.here("notices", "--json").json["notices"] == [], "it is done with"


def test_a_dead_notice_shows_in_the_status_and_the_doctor_and_can_be_sent_again_or_dropped(terminal: Terminal) -> None:
    with Receiver() as receiver:
        receiver.answers = [410]
        told(terminal, receiver, "dead")
        status = terminal.here("--json").json["notices"]
        (dead,) = status["dead"]
        assert (dead["status"], dead["attempts"], status["undelivered"]) == ("dead", 1, 1)
        assert f"127.0.0.1:{receiver.port} answered 410" in dead["message"]
        assert "answered 410" in terminal.here().out
        found = [each["message"] for each in terminal.here("doctor", "--json").json["findings"]]
        assert any("1 notices couldn't be delivered" in message for message in found)

        terminal.here("notices", "--again", dead["id"][:9]).refused("send notice", dead["id"], "again", "--yes")
        again = terminal.here("notices", "--again", dead["id"][:9], "--yes", "--by", "ada", "--json").json["notices"]
        assert [(each["status"], each["attempts"], each["by"]) for each in again] == [("due", 0, "ada")]
        terminal.here("notices", "--again", dead["id"], "--yes").refused(f"notice {dead['id']} is due")
        dropped = terminal.here("notices", "--drop", dead["id"], "--yes", "--reason", "too late", "--json").json
        assert [(each["status"], each["reason"]) for each in dropped["notices"]] == [("dropped", "too late")]
        assert terminal.here("--json").json["notices"] == {"dead": [], "undelivered": 0, "overdue": ""}


def test_notices_that_nobody_delivers_are_said_to_be_overdue(terminal: Terminal) -> None:
    import apsw

    with Receiver() as receiver:
        receiver.answers = [500]
        told(terminal, receiver, "due")
    db = apsw.Connection(terminal.store.removeprefix("sqlite:///"))
    db.execute("UPDATE notice SET due = due - 300000")
    db.close()
    late = terminal.here("--json").json["notices"]["overdue"]
    assert late.startswith("1 overdue, since ") and "--notify URL" in late
    assert late in terminal.here().out
    assert any(late in each["message"] for each in terminal.here("doctor", "--json").json["findings"])


def test_a_receiver_or_secret_that_wont_do_is_misuse(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    work = ("work", terminal.target("note"), "--notify")
    monkeypatch.delenv("INTERLOCK_WEBHOOK_SECRET", raising=False)
    terminal.here(*work, "https://pager.example/hook").refused("INTERLOCK_WEBHOOK_SECRET", "24 to 64 random bytes")
    monkeypatch.setenv("INTERLOCK_WEBHOOK_SECRET", "hunter2")
    refused = terminal.here(*work, "https://pager.example/hook")
    refused.refused("INTERLOCK_WEBHOOK_SECRET")
    assert "hunter2" not in refused.err
    monkeypatch.setenv("INTERLOCK_WEBHOOK_SECRET", SECRET)
    terminal.here(*work, "http://pager.example/hook").refused("needs https")


def test_an_id_that_isnt_there_is_misuse(terminal: Terminal) -> None:
    terminal.played()
    terminal.here("notices", "--again", "beef", "--yes").refused("no notice that is open begins so")
    terminal.here("notices", "--drop", "all", "--yes").refused("no notice is dead")
    terminal.here("notices", "--again", "a", "--drop", "b").refused("one of them")
    assert "no notices" in terminal.here("notices").out
