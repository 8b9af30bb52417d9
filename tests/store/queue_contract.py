"""What every store promises of the queue of tool calls; part of the suite in `contract`."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from interlock.store.protocol import (
    CallRow,
    Committed,
    Failed,
    Later,
    Left,
    Over,
    Part,
    Reserve,
    Reserved,
    Shut,
    Stale,
    Store,
)
from tests.store.author import NOW, Author, claim, join, leave, running, status

CALL = CallRow(effect=1, status="under way", tool="refund", way="key", attempt=1, seq=2, until=NOW + 900)


def reserve(author: Author, effect: int = 1, at: int = NOW, **more: Any) -> Reserve:
    """A place for an attempt of this author's run that may be on its way for a second."""
    tool, until = more.pop("tool", "refund"), more.pop("until", at + 1000)
    return Reserve(author.number, author.worker, author.fence, effect, 1, tool, "key", until, at, 100, **more)


def limited(effect: int = 1, **more: Any) -> CallRow:
    return replace(CALL, effect=effect, limited=True, **more)


def queue(store: Store, author: Author) -> dict[int, str]:
    return {call.effect: call.status for call in store.snapshot(author.number).calls}


def dead(store: Store, run: str = "a1") -> Author:
    """A run that ended with a dead call."""
    author = running(store, run)
    row = replace(CALL, status="dead", until=0, failed=3)
    [answer] = store.write([author.commit(status("failed"), calls=(row,), release=True)])
    assert answer == Committed(mail=False)
    return author


class QueueContract:
    """Every sentence that the protocol says of calls is a test."""

    # -- rows ---------------------------------------------------------------------------------------------------------

    def test_a_commit_writes_the_calls_it_carries_under_its_token(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(calls=(CALL, replace(CALL, effect=2, tool="mail")))])
        kept = store.snapshot(author.number).calls
        assert kept == (
            replace(CALL, run=author.number, fence=author.fence),
            replace(CALL, effect=2, tool="mail", run=author.number, fence=author.fence),
        )
        store.write(
            [author.commit(calls=(replace(CALL, status="due", until=0, due=NOW + 9, failed=4),), calls_over=(2,))]
        )
        [left] = store.snapshot(author.number).calls
        assert (left.status, left.until, left.due, left.failed) == ("due", 0, NOW + 9, 4)

    def test_a_refused_or_stale_commit_changes_no_call(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(calls=(CALL,))])
        before = store.snapshot(author.number).calls
        stale = replace(author.commit(calls_over=(1,)), fence=author.fence - 1)
        store.write([leave("a1", "i1", "pause")])
        halted = replace(stale, fence=author.fence, begins=True)
        store.write([stale, halted])
        assert store.snapshot(author.number).calls == before

    def test_a_commit_sent_again_leaves_the_queue_alone(self, store: Store) -> None:
        author = running(store)
        commit = author.commit(calls=(CALL,))
        assert store.write([commit, commit]) == [Committed(mail=False)] * 2
        assert queue(store, author) == {1: "under way"}

    def test_a_call_that_never_was_may_be_over(self, store: Store) -> None:
        author = running(store)
        assert store.write([author.commit(calls_over=(7,))]) == [Committed(mail=False)]

    def test_a_status_that_no_call_has_fails_the_commit(self, store: Store) -> None:
        author = running(store)
        [answer] = store.write([author.commit(calls=(replace(CALL, status="lost"),))])
        assert isinstance(answer, Failed) and queue(store, author) == {}

    def test_calls_are_listed_by_status_with_their_runs(self, store: Store) -> None:
        first, second = dead(store, "a1"), running(store, "a2")
        store.write([second.commit(calls=(CALL, replace(CALL, effect=4, status="dead")))])
        listed = [(row.id, call.effect) for row, call in store.calls(("dead",))]
        assert listed == [("a1", 1), ("a2", 4)]
        assert [(row.id, call.status) for row, call in store.calls(("under way", "due"))] == [("a2", "under way")]
        assert first.number < second.number

    # -- places -------------------------------------------------------------------------------------------------------

    def test_places_are_taken_up_to_the_limit_counted_over_runs(self, store: Store) -> None:
        authors = [running(store, f"a{n}") for n in range(3)]
        answers = store.write([reserve(author, concurrency=2) for author in authors])
        assert answers == [Reserved(NOW), Reserved(NOW), Later(NOW + 1100, full=True)]
        assert [queue(store, author) for author in authors] == [{1: "reserved"}, {1: "reserved"}, {}]

    def test_two_effects_of_one_run_take_two_places(self, store: Store) -> None:
        author = running(store)
        answers = store.write([reserve(author, effect, concurrency=1) for effect in (1, 2)])
        assert answers == [Reserved(NOW), Later(NOW + 1100, full=True)]

    def test_another_tools_calls_take_no_place(self, store: Store) -> None:
        author = running(store)
        answers = store.write([reserve(author, 1, concurrency=1), reserve(author, 2, tool="mail", concurrency=1)])
        assert answers == [Reserved(NOW)] * 2

    def test_ones_own_place_may_be_taken_again(self, store: Store) -> None:
        """The answer was lost: the same effect asks anew."""
        author = running(store)
        assert store.write([reserve(author, concurrency=1)] * 2) == [Reserved(NOW)] * 2

    def test_a_place_lasts_from_its_reservation_over_the_intent_to_the_result(self, store: Store) -> None:
        first, second = running(store, "a1"), running(store, "a2")
        store.write([reserve(first, concurrency=1)])
        store.write([first.commit(calls=(limited(until=NOW + 5000),))])
        asks = reserve(second, at=NOW + 2000, concurrency=1)
        assert store.write([asks]) == [Later(NOW + 5100, full=True)]
        store.write([first.commit(calls_over=(1,))])
        assert store.write([asks]) == [Reserved(NOW + 2000)]

    def test_what_an_earlier_commit_says_of_a_call_takes_no_place_away(self, store: Store) -> None:
        """The failure of the attempt before is committed after the place for the next one was taken."""
        first, second = running(store, "a1"), running(store, "a2")
        store.write([first.commit(calls=(limited(),))])
        store.write([reserve(first, concurrency=1), first.commit(calls=(limited(status="due", until=0, due=NOW),))])
        assert store.write([reserve(second, concurrency=1)]) == [Later(NOW + 1100, full=True)]

    @pytest.mark.parametrize("word", ["in doubt", "due", "dead"])
    def test_an_attempt_that_may_be_on_its_way_takes_a_place_until_its_time_is_up(
        self, store: Store, word: str
    ) -> None:
        first, second = running(store, "a1"), running(store, "a2")
        store.write([reserve(first, concurrency=1), first.commit(calls=(limited(),))])
        store.write([first.commit(calls=(limited(status=word),))])
        assert store.write([reserve(second, at=NOW + 999, concurrency=1)]) == [Later(NOW + 1000, full=True)]
        assert store.write([reserve(second, at=NOW + 1000, concurrency=1)]) == [Reserved(NOW + 1000)]

    def test_a_place_without_an_intent_is_free_when_its_time_is_up(self, store: Store) -> None:
        first, second = running(store, "a1"), running(store, "a2")
        store.write([reserve(first, concurrency=1)])
        assert store.write([reserve(second, at=NOW + 1099, concurrency=1)]) == [Later(NOW + 1100, full=True)]
        assert store.write([reserve(second, at=NOW + 1100, concurrency=1)]) == [Reserved(NOW + 1100)]
        assert queue(store, first) == {}, "nothing is left of it"

    def test_only_the_holder_of_a_run_takes_places_for_it(self, store: Store) -> None:
        author = running(store)
        for wrong in (
            replace(reserve(author), fence=author.fence - 1),
            replace(reserve(author), worker=author.worker + 1),
            replace(reserve(author), run=99),
        ):
            assert store.write([wrong]) == [Stale()]
        assert queue(store, author) == {}

    def test_a_rate_is_kept_in_every_stretch_as_long_as_its_period(self, store: Store) -> None:
        author = running(store)
        limits: dict[str, Any] = {"rate": 2, "per_ms": 1000}
        for effect, (at, answer) in enumerate(
            [
                (NOW, Reserved(NOW)),
                (NOW + 600, Reserved(NOW + 600)),
                (NOW + 999, Later(NOW + 1000, full=False)),
                (NOW + 1000, Reserved(NOW + 1000)),
                (NOW + 1500, Later(NOW + 1600, full=False)),
                (NOW + 1600, Reserved(NOW + 1600)),
            ]
        ):
            assert store.write([reserve(author, effect, at=at, **limits)]) == [answer]

    def test_who_is_refused_a_place_uses_up_no_rate(self, store: Store) -> None:
        first, second = running(store, "a1"), running(store, "a2")
        limits: dict[str, Any] = {"concurrency": 1, "rate": 2, "per_ms": 1000}
        store.write([reserve(first, **limits)])
        for _ in range(3):
            store.write([reserve(second, at=NOW + 1, **limits)])
        store.write([first.commit(calls_over=(1,))])
        assert store.write([reserve(second, at=NOW + 2, **limits)]) == [Reserved(NOW + 2)]

    def test_each_in_line_is_told_when_a_rate_lets_it_begin_after_those_before_it(self, store: Store) -> None:
        authors = [running(store, f"a{n}") for n in range(6)]
        limits: dict[str, Any] = {"rate": 2, "per_ms": 1000}
        answers = store.write([reserve(author, at=NOW + n, **limits) for n, author in enumerate(authors)])
        assert answers == [
            Reserved(NOW),
            Reserved(NOW + 1),
            Later(NOW + 1000, full=False),
            Later(NOW + 1001, full=False, ahead=1),
            Later(NOW + 2000, full=False, ahead=2),
            Later(NOW + 2001, full=False, ahead=3),
        ]

    def test_who_comes_later_takes_no_place_from_one_whose_time_has_just_come(self, store: Store) -> None:
        first, second, third = (running(store, f"a{n}") for n in range(3))
        limits: dict[str, Any] = {"rate": 1, "per_ms": 10_000}
        store.write([reserve(first, **limits), reserve(second, **limits)])
        due = NOW + 10_000
        [answer] = store.write([reserve(third, at=due + 100, **limits)])
        assert isinstance(answer, Later) and answer.ahead == 1
        assert store.write([reserve(second, at=due + 200, **limits)]) == [Reserved(due + 200)]

    def test_a_place_is_not_kept_for_one_who_does_not_come(self, store: Store) -> None:
        first, second, third = (running(store, f"a{n}") for n in range(3))
        limits: dict[str, Any] = {"rate": 1, "per_ms": 10_000}
        store.write([reserve(first, **limits), reserve(second, **limits)])
        late = NOW + 12_001
        assert store.write([reserve(third, at=late, **limits)]) == [Reserved(late)]

    def test_who_has_ended_or_asks_no_more_stands_in_no_line(self, store: Store) -> None:
        first, second, third, fourth = (running(store, f"a{n}") for n in range(4))
        limits: dict[str, Any] = {"concurrency": 1, "patience_ms": 500}
        store.write([reserve(author, **limits) for author in (first, second, third)])
        store.write([second.commit(status("completed"), ends=True, release=True)])
        assert store.write([reserve(fourth, **limits)]) == [Later(NOW + 1100, full=True, ahead=1)]
        assert store.write([reserve(fourth, at=NOW + 501, **limits)]) == [Later(NOW + 1100, full=True)]

    # -- dead calls ---------------------------------------------------------------------------------------------------

    def test_of_two_who_see_to_a_dead_call_one_wins_also_after_the_end(self, store: Store) -> None:
        author = dead(store)
        ann = leave("a1", "i1", "redo", call=1, closes="redo by ann")
        bob = leave("a1", "i2", "drop", call=1, closes="drop by bob")
        assert store.write([ann, bob]) == [Left(held=False), Shut("redo by ann")]
        assert store.write([ann]) == [Left(held=False)], "sent again, it recognises itself"
        found = store.snapshot(author.number)
        assert [item.id for item in found.inbox] == ["i1"] and found.calls[0].asked == "redo by ann"

    def test_what_is_not_dead_is_not_seen_to(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(calls=(CALL,))])
        for effect in (1, 2):
            assert store.write([leave("a1", f"i{effect}", "drop", call=effect)]) == [Shut("unknown")]
        assert store.snapshot(author.number).inbox == ()

    def test_a_call_in_doubt_is_cleared_once(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(status("cancelled"), calls=(replace(CALL, status="in doubt"),), release=True)])
        says = [leave("a1", f"i{n}", "clear", call=1, closes=f"clear by {n}") for n in range(2)]
        assert store.write(says) == [Left(held=False), Shut("clear by 0")]

    def test_a_call_written_anew_may_be_seen_to_anew(self, store: Store) -> None:
        """What was asked could not be done, and the run has said so."""
        author = dead(store)
        store.write([leave("a1", "i1", "redo", call=1)])
        [lease] = claim(store, join(store)).leases
        author.holds(lease)
        row = replace(CALL, status="dead", until=0, failed=3)
        store.write([author.commit(status("failed"), calls=(row,), takes=("i1",), release=True)])
        assert store.write([leave("a1", "i2", "drop", call=1)]) == [Left(held=False)]

    @pytest.mark.parametrize("kind", ["signal", "extend", "pause", "cancel"])
    def test_an_ended_run_takes_nothing_else(self, store: Store, kind: str) -> None:
        dead(store)
        assert store.write([leave("a1", "i1", kind)]) == [Over("failed")]

    @pytest.mark.parametrize("named", [None, "a1"])
    def test_an_ended_run_is_claimed_for_its_mail(self, store: Store, named: str | None) -> None:
        author = dead(store)
        worker = join(store)
        assert claim(store, worker, run=named).leases == ()
        store.write([leave("a1", "i1", "drop", call=1)])
        [lease] = claim(store, worker, run=named).leases
        assert (lease.snapshot.row.status, lease.snapshot.row.worker) == ("failed", worker)
        author.holds(lease)
        store.write([author.commit(status("failed"), calls_over=(1,), takes=("i1",), release=True)])
        assert claim(store, worker, run=named).leases == ()

    @pytest.mark.parametrize("named", [None, "a1"])
    @pytest.mark.parametrize("word", ["due", "under way"])
    def test_an_ended_run_is_claimed_for_a_call_done_again_that_has_not_ended(
        self, store: Store, word: str, named: str | None
    ) -> None:
        """Its holder parted, or died: another goes on with it."""
        author = dead(store)
        worker = join(store)
        store.write([leave("a1", "i1", "redo", call=1)])
        [lease] = claim(store, worker, run="a1").leases
        author.holds(lease)
        again = replace(CALL, effect=2, status=word, redoes=1)
        store.write([author.commit(status("failed"), calls=(again,), calls_over=(1,), takes=("i1",))])
        other = join(store, "other")
        assert claim(store, other, run=named).leases == (), "its holder is at it"
        beat = next(row.beat for row in store.workers() if row.number == worker)
        [lease] = claim(store, other, run=named, still={worker: beat}).leases
        assert lease.why == "still"
        store.write([Part(other, NOW + 50)])
        [lease] = claim(store, join(store, "third"), run=named).leases
        assert lease.why == "" and lease.fence == author.fence + 2

    def test_a_call_of_an_ended_run_that_nobody_does_again_is_no_reason_to_claim_it(self, store: Store) -> None:
        author = running(store)
        calls = (replace(CALL, status="in doubt"), replace(CALL, effect=2, status="dead"))
        store.write([author.commit(status("cancelled"), calls=calls, release=True)])
        assert claim(store, join(store)).leases == ()
