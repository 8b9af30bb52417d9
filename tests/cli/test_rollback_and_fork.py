"""`rollback` and `fork`: what they say before, what they do, and what they refuse."""

from __future__ import annotations

import json

import pytest

from tests.cli.terminal import Terminal


def back(terminal: Terminal, run: str, *args: str) -> None:
    """Rolled back, and run on until it waits again."""
    done = terminal.here("rollback", run, *args, "--by", "ann", "--reason", "wrong name", "--yes")
    assert done.code == 0, done
    terminal.here("run", terminal.target("booker"), "--run", run)


class TestRollback:
    def test_the_plan_is_shown_before_anything_happens(self, terminal: Terminal) -> None:
        run = terminal.played("booker")
        before = terminal.shown(run)
        done = terminal.here("rollback", run, "--to", "1")
        assert done.code == 2 and len(done.err.strip().splitlines()) == 1
        assert done.out.splitlines() == [
            'undone  effect 1  book("abcdef")  turn 1',
            'stays   effect 2  page("abcdef")  turn 2  has no undo: needs --accept 2',
        ]
        assert "effect 2 (page) can't be undone: accept that it stays (--accept 2)" in done.err
        done = terminal.here("rollback", run, "--to", "1", "--accept", "2")
        assert "accepted" in done.out and done.code == 2
        assert f"return booker {run[:4]} (waiting in `person`) to turn 1 as " in done.err
        assert "undoing 1, leaving as it is 2" in done.err and "say --yes" in done.err
        assert terminal.shown(run) == before

    def test_it_goes_back_and_show_and_log_tell_it_in_words(self, terminal: Terminal) -> None:
        run = terminal.played("booker")
        done = terminal.here("rollback", run, "--to", "1", "--accept", "2", "--by", "ann", "--yes")
        assert f"booker {run[:4]}  goes back to where turn 1 began, in `book`  store {terminal.store}" in done.out
        assert "it lies in the inbox until a worker takes the run: interlock run TARGET --run" in done.out
        assert "an answer lies in the inbox" in terminal.here("show", run).out
        assert terminal.here("run", terminal.target("booker"), "--run", run).code == 3
        said = terminal.here("log", run).out
        assert "ROLLBACK to turn 1 by ann; undoes 1; keeps 2" in said
        assert 'undo book("abcdef")' in said and "(rollback)" in said
        assert "back where turn 1 began, in `book`; undone: 1; stays as it is: 2" in said
        assert "path    book > page > person > book > page > person" in terminal.here("show", run).out
        assert terminal.here("verify", run).code == 0
        types = [line["type"] for line in terminal.here("log", run, "--json").lines]
        assert {"rollback_begun", "rolled_back"} <= set(types)

    def test_as_a_program_reads_it(self, terminal: Terminal) -> None:
        run = terminal.played("booker")
        done = terminal.here("rollback", run, "--to", "1", "--accept", "2", "--yes", "--json")
        said = done.json
        assert (said["ok"], said["run"], said["to"], said["state"], said["held"]) == (True, run, 1, "book", False)
        assert said["undo"] == [{"effect": 1, "tool": "book", "args": {"name": "abcdef"}, "turn": 1}]
        assert [deed["effect"] for deed in said["accepted"]] == [2] and said["in_doubt"] == []
        assert terminal.shown(run)["rolling_back_to"] is None

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (["--to", "9"], ["no turn 9", "turns 1 to 3"]),
            (["--to", "0"], ["no turn 0"]),
            (["--to", "2"], ["effect 2 (page) can't be undone", "--accept 2"]),
            (["--to", "3", "--accept", "2"], ["nothing to accept about effect 2"]),
            (["--to", "1", "--accept", "2", "--accept", "1"], ["nothing to accept about effect 1"]),
            ([], ["--to"]),
            (["--to", "x"], ["'x'"]),
        ],
    )
    def test_what_does_not_fit_is_refused_in_one_line(
        self, terminal: Terminal, args: list[str], words: list[str]
    ) -> None:
        run = terminal.played("booker")
        terminal.here("rollback", run, *args, "--yes", "--json").refused(*words)

    def test_an_ended_run_is_refused_with_a_line_that_names_fork(self, terminal: Terminal) -> None:
        run = terminal.played("note", "abc")
        terminal.here("rollback", run, "--to", "1", "--yes").refused("has ended (completed)", f"fork {run} --at 1")
        terminal.here("rollback", "nosuch", "--to", "1", "--yes").refused("no run `nosuch`")

    def test_a_rollback_over_a_rollback(self, terminal: Terminal) -> None:
        run = terminal.played("booker")
        back(terminal, run, "--to", "1", "--accept", "2")
        terminal.here("rollback", run, "--to", "2", "--yes", "--json").refused("was undone since")
        terminal.here("rollback", run, "--to", "4", "--yes", "--json").refused("turn 4 was a rollback")
        back(terminal, run, "--to", "5", "--accept", "5")
        assert terminal.shown(run)["state"] == "person" and terminal.here("verify").code == 0


class TestFork:
    def test_it_prints_the_new_runs_id_and_where_it_comes_from(self, terminal: Terminal) -> None:
        run = terminal.played("booker")
        done = terminal.here("fork", run, "--at", "2", "--by", "ann")
        assert done.code == 0, done
        fork = done.out.split()[1]
        assert f"goes on from where turn 2 of {run[:4]} began, in `page`; lies until a worker takes it" in done.out
        assert f"| show {fork[:4]}" in done.out and fork != run
        shown = terminal.shown(fork)
        assert shown["forked_from"]["run"] == run and shown["forked_from"]["turn"] == 2
        assert shown["state"] == "page" and shown["record"]["said"] == "abcdef booked"
        assert f"forked by ann from {run} where its turn 2 began" in terminal.here("log", fork).out
        assert f"from    run {run}, where its turn 2 began" in terminal.here("show", fork).out
        assert terminal.here("run", terminal.target("booker"), "--run", fork).code == 3
        assert terminal.here("verify").code == 0

    def test_an_ended_run_is_forked_with_another_record(self, terminal: Terminal) -> None:
        run = terminal.played("note", "abc")
        assert terminal.shown(run)["status"] == "completed"
        for target in ([], [terminal.target("note")]):
            done = terminal.here("fork", run, *target, "--at", "1", "--set", "name=abcdef", "--set", "size=7", "--json")
            assert done.code == 0, done
            made = done.json
            assert made["record"] == {"name": "abcdef", "size": 7, "said": "", "items": []} and made["new"]
            assert terminal.here("run", terminal.target("note"), "--run", made["run"]).code == 3

    @pytest.mark.parametrize("typed", [False, True], ids=["alone", "with its machine"])
    @pytest.mark.parametrize(
        ("sets", "words"),
        [
            (["sise=3"], ["no field `sise`", "size"]),
            (["size=many"], ["`size`"]),
            (["items=3"], ["`items`"]),
            (["name"], ["write field=value"]),
        ],
    )
    def test_a_field_that_does_not_fit_starts_nothing(
        self, terminal: Terminal, sets: list[str], words: list[str], typed: bool
    ) -> None:
        run = terminal.played("note", "abc")
        target = [terminal.target("note")] if typed else []
        terminal.here("fork", run, *target, "--at", "1", *[f"--set={each}" for each in sets]).refused(*words)
        assert len(terminal.here("runs", "--json").json["runs"]) == 1

    def test_a_turn_or_machine_that_is_not_its_own_is_refused(self, terminal: Terminal) -> None:
        run = terminal.played("note", "abc")
        terminal.here("fork", run, "--at", "7").refused("no turn 7", "turns 1 to 1")
        terminal.here("cancel", run, "--yes")
        terminal.here("run", terminal.target("note"), "--run", run)
        terminal.here("fork", run, "--at", "7").refused("no turn 7", "turns 1 to 1")
        terminal.here("fork", run, terminal.target("booker"), "--at", "1").refused("of machine note", "booker")
        terminal.here("fork", "nosuch", "--at", "1").refused("no run `nosuch`")
        terminal.here("fork", run, "--at", "1", "--key", " ").refused("the key is empty")

    def test_the_same_key_is_the_same_fork(self, terminal: Terminal) -> None:
        run = terminal.played("note", "abc")
        one, two = (terminal.here("fork", run, "--at", "1", "--key", "k", "--json").json for _ in range(2))
        assert one["run"] == two["run"] and (one["new"], two["new"]) == (True, False)
        terminal.here("fork", run, "--at", "1", "--key", "k", "--set", "name=x").refused("belongs to run")

    def test_nothing_foreign_is_printed_raw(self, terminal: Terminal) -> None:
        done = terminal.here("start", terminal.target("note"), "--input", json.dumps({"name": "\x1b[2J"}), "--json")
        run = done.json["run"]
        done = terminal.here(
            "fork", run, "--at", "1", "--set", "name=\x1b[31m\u202e", "--by", "eve\x1b[1m", "--key", "\x1b[k"
        )
        assert done.code == 0 and "\x1b" not in done.out + done.err
        fork = done.out.split()[1]
        for args in (["show", fork], ["log", fork], ["fork", run, "--at", "1", "--set", "n\x1bme=1"]):
            done = terminal.here(*args)
            assert "\x1b" not in done.out + done.err and "\u202e" not in done.out + done.err
