"""What every store promises: one suite, inherited by the tests of each. Every sentence of the protocol is a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from interlock.canonical import sha256
from interlock.errors import StoreError, UnknownRun
from interlock.history.chain import first_break
from interlock.machine.limits import Amounts
from interlock.policy.breaker import Terms
from interlock.store.protocol import (
    Account,
    Answer,
    Beat,
    Beaten,
    Cell,
    Commit,
    Committed,
    DecideNotice,
    Done,
    Failed,
    Guard,
    Leave,
    Left,
    Notice,
    Over,
    Part,
    Probe,
    Refused,
    Report,
    Reset,
    RunFilter,
    SettleNotice,
    Shut,
    Stale,
    Standing,
    Started,
    Store,
    Taken,
    TakenNotice,
    TakeNotices,
    Taking,
    Trip,
)
from tests.store.author import (
    ACCOUNT,
    MACHINE,
    NOW,
    ROW,
    Author,
    begin,
    claim,
    join,
    leave,
    note,
    person_wait,
    running,
    status,
)
from tests.store.queue_contract import QueueContract

BREAKER = "model:openai:gpt-5-mini"
TERMS = Terms()


def parked(store: Store, run: str = "a1", due: int | None = None, kind: str = "person") -> Author:
    """A run that waits for a person, held by nobody."""
    author = running(store, run)
    row = status("waiting", wake_at=due)
    [answer] = store.write([author.commit(row, opens=(person_wait(due=due, kind=kind),), release=True)])
    assert answer == Committed(mail=False)
    return author


def failed(at: int) -> Report:
    """A call that was sent a moment before has failed."""
    return Report(BREAKER, "failed", at, at - 1, TERMS, why="503")


def open_breaker(store: Store) -> int:
    """Five failures in a row; the time from which on there may be a probe."""
    *_, answer = store.write([failed(NOW + n) for n in range(5)])
    assert isinstance(answer, Standing) and answer.breaker.until is not None, answer
    return answer.breaker.until


def dump(store: Store) -> list[Any]:
    """All that can be read of a store: equal dumps, nothing was written."""
    runs = store.runs()
    return [[store.snapshot(run.number), store.events(run.number)] for run in runs]


class StoreContract(QueueContract):
    """Inherit, and say how to open one. `FORBIDDEN`: statements on the raw database that must be refused."""

    FORBIDDEN: tuple[str, ...] = ()

    def open(self, folder: Path) -> Store:
        raise NotImplementedError

    def tamper(self, store: Store, statement: str) -> AbstractContextManager[Any]:
        """Run a statement on the raw database, as somebody with a shell would."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = self.open(tmp_path)
        yield store
        store.close()

    # -- start --------------------------------------------------------------------------------------------------------

    def test_a_start_creates_row_account_cells_and_first_event(self, store: Store) -> None:
        author = begin(
            store, Author("a1", key="k", tenant="t"), cells=[Cell("question", -1, 1, '["question"]', "user")]
        )
        found = store.snapshot(author.number)
        row = found.row
        assert (row.id, row.machine, row.shape, row.tenant, row.key) == ("a1", *MACHINE, "t", "k")
        assert (row.status, row.state, row.seq, row.head, row.fence) == ("ready", "look_up", 1, author.head, 0)
        assert (row.worker, row.mail, row.created_at, row.changed_at) == (None, False, NOW, NOW)
        assert (row.account, row.live) == (ACCOUNT, ROW.live)
        assert found.cells == (Cell("question", -1, 1, '["question"]', "user"),)
        assert found.values == {1: store.events(author.number)[0].body}

    def test_the_same_key_and_input_answers_the_run_that_exists(self, store: Store) -> None:
        first = begin(store, Author("a1", key="k"))
        [again] = store.write([Author("a2", key="k").start()])
        assert again == Started("a1", first.number, new=False)
        assert len(store.runs()) == 1

    def test_the_same_key_with_other_input_is_taken(self, store: Store) -> None:
        begin(store, Author("a1", key="k"))
        assert store.write([Author("a2", key="k").start(digest="other")]) == [Taken("a1")]

    def test_a_key_belongs_to_its_tenant_and_machine(self, store: Store) -> None:
        others = [Author("a2", key="k", tenant="t"), Author("a3", key="k", machine="else"), Author("a4"), Author("a5")]
        begin(store, Author("a1", key="k"))
        answers = store.write([other.start() for other in others])
        assert [answer.new for answer in answers if isinstance(answer, Started)] == [True] * 4

    def test_a_start_sent_twice_starts_once(self, store: Store) -> None:
        """A lost acknowledgement: the identical start, without any key, recognises itself."""
        start = Author("a1").start()
        first, second = store.write([start, start])
        assert isinstance(first, Started) and second == replace(first, new=False)
        assert store.write([replace(start, input_digest="other")]) == [Taken("a1")]

    # -- commit -------------------------------------------------------------------------------------------------------

    def test_a_commit_changes_everything_at_once(self, store: Store) -> None:
        author = running(store)
        account = Account(Amounts(11, 20, 3000, 500_000, 60_000), Amounts(1, 2, 3, 4, 5), Amounts(0, 1, 9, 8, 0))
        row = replace(
            ROW, state="pay", turn=2, turn_seq=1, content="beef", reason="r", deadline_at=NOW + 99, live=b"[2]"
        )
        cells = (Cell("facts", 0, 2, '["value"]', "tool"),)
        [answer] = store.write([author.commit(row, events=2, account=account, cells=cells, at=NOW + 20)])
        assert answer == Committed(mail=False)
        found = store.snapshot(author.number)
        assert found.row == store.find("a1")
        assert (found.row.status, found.row.state, found.row.turn, found.row.turn_seq) == ("running", "pay", 2, 1)
        assert (found.row.seq, found.row.head, found.row.content, found.row.reason) == (3, author.head, "beef", "r")
        assert (found.row.deadline_at, found.row.changed_at, found.row.live) == (NOW + 99, NOW + 20, b"[2]")
        assert (found.row.account, found.cells) == (account, cells)
        assert [event.seq for event in found.journal] == [2, 3]

    @pytest.mark.parametrize("field", ["worker", "fence", "after", "run"])
    def test_a_commit_compares_before_it_sets(self, store: Store, field: str) -> None:
        author = running(store)
        before = dump(store)
        commit = author.commit()
        assert store.write([replace(commit, **{field: getattr(commit, field) + 1})]) == [Stale()]
        assert dump(store) == before

    def test_a_commit_sent_again_recognises_itself(self, store: Store) -> None:
        author = running(store)
        commit = author.commit(events=2)
        assert store.write([commit]) == [Committed(mail=False)]
        before = dump(store)
        assert store.write([commit]) == [Committed(mail=False)]
        assert dump(store) == before

    def test_a_releasing_commit_sent_again_recognises_itself(self, store: Store) -> None:
        author = running(store)
        commit = author.commit(release=True)
        assert store.write([commit, commit]) == [Committed(mail=False)] * 2

    def test_an_older_commit_sent_again_is_stale(self, store: Store) -> None:
        author = running(store)
        first = author.commit()
        store.write([first, author.commit()])
        assert store.write([first]) == [Stale()]

    def test_a_zombie_changes_nothing(self, store: Store) -> None:
        """A worker that slept past its lease, while another took the run over, changes nothing."""
        author = running(store)
        late = author.commit()
        [lease] = claim(store, join(store, "rescuer"), still={author.worker: self.beat(store, author.worker)}).leases
        assert (lease.fence, lease.why) == (late.fence + 1, "still")
        before = dump(store)
        assert store.write([late]) == [Stale()]
        assert dump(store) == before

    def test_nothing_begins_or_ends_while_a_pause_cancel_or_rollback_lies_unread(self, store: Store) -> None:
        for number, kind in enumerate(("pause", "cancel", "rollback")):
            author = running(store, f"a{number}")
            store.write([leave(author.run, f"i{number}", kind)])
            before = dump(store)
            assert store.write([author.commit(begins=True)]) == [Refused("halt")]
            author.seq, author.head = author.seq - 1, store.find(author.run).head
            assert store.write([author.commit(ends=True)]) == [Refused("halt")]
            assert dump(store) == before

    def test_a_rollback_after_an_unread_cancel_is_refused(self, store: Store) -> None:
        """Nobody would read it: the run ends first."""
        author = running(store)
        store.write([leave("a1", "i1", "rollback"), leave("a1", "i2", "cancel")])
        before = dump(store)
        assert store.write([leave("a1", "i3", "rollback")]) == [Over("cancelled")]
        assert dump(store) == before
        assert [item.id for item in store.snapshot(author.number).inbox] == ["i1", "i2"]

    def test_other_mail_and_other_commits_are_not_refused(self, store: Store) -> None:
        author = running(store)
        store.write([leave("a1", "i1", "signal")])
        assert store.write([author.commit(begins=True)]) == [Committed(mail=True)]
        store.write([leave("a1", "i3", "evidence")])
        assert store.write([author.commit(begins=True)]) == [Committed(mail=True)]
        store.write([leave("a1", "i2", "pause")])
        assert store.write([author.commit(begins=False)]) == [Committed(mail=True)]

    def test_no_run_ends_while_evidence_lies_unread(self, store: Store) -> None:
        author = running(store)
        store.write([leave("a1", "i1", "signal"), leave("a1", "i2", "evidence")])
        before = dump(store)
        assert store.write([self.next_commit(store, author, ends=True)]) == [Refused("halt")]
        assert dump(store) == before
        assert store.write([self.next_commit(store, author, takes=("i2",))]) == [Committed(mail=True)]
        assert store.write([self.next_commit(store, author, ends=True)]) == [Committed(mail=True)]

    def test_a_read_halt_refuses_no_longer(self, store: Store) -> None:
        author = running(store)
        store.write([leave("a1", "i1", "pause")])
        assert store.write([author.commit(takes=("i1",))]) == [Committed(mail=False)]
        assert store.write([author.commit(begins=True)]) == [Committed(mail=False)]

    def test_a_wait_is_closed_once(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(opens=(person_wait(1), person_wait(2)))])
        assert store.write([author.commit(closes=((1, "timer"),))]) == [Committed(mail=False)]
        before = dump(store)
        for closes in [((1, "timer"),), ((2, "timer"), (1, "timer")), ((7, "timer"),)]:
            commit = self.next_commit(store, author, closes=closes)
            assert store.write([commit]) == [Refused("wait")]
        assert dump(store) == before
        assert [wait.number for wait in store.snapshot(author.number).waits] == [2]

    def test_a_whole_value_replaces_the_cells_of_its_field(self, store: Store) -> None:
        author = running(store)
        items = tuple(Cell("facts", n, 2, f'["value",{n}]') for n in range(12))
        store.write([author.commit(cells=(*items, Cell("other", -1, 2, "[]")))])
        assert store.snapshot(author.number).cells == (*items, Cell("other", -1, 2, "[]"))
        whole, item = Cell("facts", -1, 3, '["all"]', "person"), Cell("facts", 0, 3, '["one"]')
        store.write([author.commit(cells=(whole, item))])
        found = store.snapshot(author.number)
        assert found.cells == (whole, item, Cell("other", -1, 2, "[]"))
        assert sorted(found.values) == [2, 3]

    def test_a_commit_that_renews_the_record_leaves_none_of_it(self, store: Store) -> None:
        """Also fields that it doesn't name, and such as were only ever appended to; but no other run's."""
        author, other = running(store), running(store, "b2")
        items = tuple(Cell("facts", n, 2, f'["value",{n}]') for n in range(3))
        store.write([author.commit(cells=(*items, Cell("gone", -1, 2, "[]"))), other.commit(cells=items)])
        before = (
            Cell("facts", 0, 2, '["value",0]'),
            Cell("text", -1, 1, '["record"]'),
            Cell("text", 0, 2, '["value"]'),
        )
        assert store.write([author.commit(cells=before, renews=True)]) == [Committed(mail=False)]
        assert store.snapshot(author.number).cells == before
        assert store.snapshot(other.number).cells == items

    def test_a_payload_is_kept_once(self, store: Store) -> None:
        author, body = running(store), b"\x00large" * 100
        kept = ((sha256(body), body),)
        store.write([author.commit(payloads=kept), author.commit(payloads=kept)])
        assert store.payload(sha256(body)) == body
        with pytest.raises(StoreError, match="payload"):
            store.payload(sha256(b"unknown"))

    def test_bodies_come_back_byte_for_byte(self, store: Store) -> None:
        author = running(store)
        store.write([self.said(author, text="naïve \u0000 😀 '\"\\", lone="\ud800")])
        [event] = store.events(author.number, 2)
        assert first_break("a1", store.events(author.number), 2, author.head) is None
        assert b"na\xc3\xafve" in event.body or b"na\\u00efve" in event.body

    def test_a_number_too_large_is_refused_and_nothing_written(self, store: Store) -> None:
        author = running(store)
        before = dump(store)
        commit = author.commit(account=Account(Amounts(nanousd=1 << 70)))
        [answer] = store.write([commit])
        assert isinstance(answer, Failed) and isinstance(answer.error, StoreError)
        assert dump(store) == before

    def test_an_account_never_holds_less_than_nothing(self, store: Store) -> None:
        author = running(store)
        [answer] = store.write([author.commit(account=Account(Amounts(), held=Amounts(nanousd=-1)))])
        assert isinstance(answer, Failed)

    def test_ceilings_may_be_passed_by_a_settlement(self, store: Store) -> None:
        author = running(store)
        over = Account(Amounts(nanousd=1), spent=Amounts(nanousd=1000))
        assert store.write([author.commit(account=over)]) == [Committed(mail=False)]
        assert store.find("a1").account == over

    # -- batches ------------------------------------------------------------------------------------------------------

    def test_a_bad_write_fails_alone(self, store: Store) -> None:
        one, two, three = running(store, "a1"), running(store, "a2"), running(store, "a3")
        bad = two.commit(takes=("nobody-left-this",))
        before = store.snapshot(two.number)
        answers = store.write([one.commit(), bad, three.commit(), Beat(one.worker, NOW + 30)])
        assert [type(answer) for answer in answers] == [Committed, Failed, Committed, Beaten]
        assert isinstance(answers[1], Failed) and isinstance(answers[1].error, StoreError)
        assert store.snapshot(two.number) == before
        assert (store.find("a1").seq, store.find("a3").seq) == (2, 2)

    def test_a_bad_join_in_a_batch_leaves_the_others_their_numbers(self, store: Store) -> None:
        author = running(store)
        worker = author.worker
        from_batch = store.write([author.commit(takes=("none",)), leave("a1", "i1")])
        assert [type(answer) for answer in from_batch] == [Failed, Left]
        assert [row.number for row in store.workers()] == [worker]

    def test_answers_come_in_the_order_of_the_writes(self, store: Store) -> None:
        authors = [running(store, f"a{n}") for n in range(6)]
        batch: list[Any] = [author.commit() for author in authors]
        batch[1] = replace(batch[1], fence=99)
        batch[4] = leave("a4", "i4")
        answers = store.write(batch)
        assert [type(a) for a in answers] == [Committed, Stale, Committed, Committed, Left, Committed]

    def test_commits_of_one_run_may_follow_each_other_in_a_batch(self, store: Store) -> None:
        author = running(store)
        assert store.write([author.commit() for _ in range(5)]) == [Committed(mail=False)] * 5
        assert store.find("a1").seq == 6

    def test_an_empty_batch_is_answered(self, store: Store) -> None:
        assert store.write([]) == []

    # -- inbox --------------------------------------------------------------------------------------------------------

    def test_what_is_left_is_read_in_order_and_taken_once(self, store: Store) -> None:
        author = running(store)
        items = [note(f"i{n}", body={"n": n}) for n in (3, 1, 2)]
        store.write([Leave("a1", item, NOW + 5) for item in items])
        assert store.snapshot(author.number).inbox == tuple(items)
        assert store.write([author.commit(takes=("i3", "i1"))]) == [Committed(mail=True)]
        assert [item.id for item in store.snapshot(author.number).inbox] == ["i2"]
        [answer] = store.write([author.commit(takes=("i1",))])
        assert isinstance(answer, Failed)

    def test_leaving_the_same_id_twice_leaves_it_once(self, store: Store) -> None:
        author = running(store)
        assert store.write([leave("a1", "i1"), leave("a1", "i1")]) == [Left(held=True)] * 2
        assert len(store.snapshot(author.number).inbox) == 1
        assert store.write([author.commit(takes=("i1",))]) == [Committed(mail=False)]
        assert store.write([leave("a1", "i1")]) == [Left(held=True)], "consumed ids are remembered"
        assert store.snapshot(author.number).inbox == ()
        assert not store.find("a1").mail

    def test_an_id_of_another_run_is_an_error(self, store: Store) -> None:
        running(store, "a1"), running(store, "a2")
        store.write([leave("a1", "i1")])
        [answer] = store.write([leave("a2", "i1")])
        assert isinstance(answer, Failed)

    def test_leaving_says_whether_somebody_holds_the_run(self, store: Store) -> None:
        begin(store, Author("a1"))
        assert store.write([leave("a1", "i1")]) == [Left(held=False)]
        assert store.find("a1").mail

    def test_an_unknown_run_takes_nothing(self, store: Store) -> None:
        [answer] = store.write([leave("nobody", "i1")])
        assert isinstance(answer, Failed) and isinstance(answer.error, UnknownRun)

    def test_an_ended_run_takes_evidence_and_is_claimed_for_it(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(status("completed"), release=True)])
        assert store.write([leave("a1", "i1")]) == [Over("completed")]
        assert store.write([leave("a1", "i2", "evidence")]) == [Left(held=False)]
        found = store.snapshot(author.number)
        assert [item.id for item in found.inbox] == ["i2"]
        [lease] = claim(store, join(store)).leases
        assert lease.snapshot.row.status == "completed"
        author.holds(lease)
        [answer] = store.write([author.commit(status("completed"), takes=("i2",), release=True)])
        assert answer == Committed(mail=False)
        assert claim(store, join(store)).leases == ()

    # -- waits --------------------------------------------------------------------------------------------------------

    def test_of_two_deciders_one_wins(self, store: Store) -> None:
        author = parked(store)
        decide = [leave("a1", f"i{n}", "decision", wait=1, closes="decision") for n in (1, 2)]
        assert store.write(decide) == [Left(held=False), Shut("decision")]
        assert store.write(decide) == [Left(held=False), Shut("decision")], "asked again, each is told the same"
        found = store.snapshot(author.number)
        assert (found.waits, [item.id for item in found.inbox]) == ((), ["i1"])

    def test_a_decision_after_the_timer_is_shut(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(opens=(person_wait(),)), author.commit(closes=((1, "timer"),))])
        assert store.write([leave("a1", "i1", "decision", wait=1, closes="decision")]) == [Shut("timer")]
        assert store.snapshot(author.number).inbox == ()

    def test_a_timer_after_the_decision_is_refused(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(opens=(person_wait(),))])
        assert store.write([leave("a1", "i1", "decision", wait=1, closes="decision")]) == [Left(held=True)]
        assert store.write([author.commit(closes=((1, "timer"),))]) == [Refused("wait")]

    @pytest.mark.parametrize(("late_ms", "answer"), [(-1, Left(held=False)), (0, Shut("due")), (1, Shut("due"))])
    def test_a_decision_is_refused_from_the_due_time_on(self, store: Store, late_ms: int, answer: Any) -> None:
        due = NOW + 1000
        parked(store, due=due)
        decide = leave("a1", "i1", "decision", wait=1, closes="decision", at=due + late_ms)
        assert store.write([decide]) == [answer]
        assert store.find("a1").mail == isinstance(answer, Left)

    def test_a_wait_that_never_was_is_shut(self, store: Store) -> None:
        parked(store)
        assert store.write([leave("a1", "i1", "decision", wait=9, closes="decision")]) == [Shut("unknown")]

    def test_waits_lists_what_people_and_systems_owe_oldest_first(self, store: Store) -> None:
        late, early, timed = parked(store, "a1"), running(store, "a2"), parked(store, "a3", kind="time")
        wait = replace(person_wait(kind="signal"), opened_at=NOW, signal="paid")
        store.write([early.commit(status("waiting"), opens=(wait,), release=True)])
        found = store.waits()
        assert [(row.id, wait.signal, wait.run) for row, wait in found] == [
            ("a2", "paid", early.number), ("a1", None, late.number),
        ]  # fmt: skip
        assert timed.number not in [row.number for row, _ in found]

    # -- claims -------------------------------------------------------------------------------------------------------

    def test_a_claim_raises_the_fence_and_hands_over_the_run(self, store: Store) -> None:
        author = begin(store, Author("a1"))
        worker = join(store)
        [lease] = claim(store, worker).leases
        row = lease.snapshot.row
        assert (lease.worker, lease.fence, lease.previous, lease.why) == (worker, 1, "", "")
        assert (row.id, row.status, row.worker, row.fence) == ("a1", "running", worker, 1)
        assert lease.snapshot == store.snapshot(author.number)
        assert claim(store, worker).leases == claim(store, join(store, "other")).leases == ()

    def test_a_claim_takes_only_its_machines_and_shapes(self, store: Store) -> None:
        begin(store, Author("a1"))
        worker = join(store)
        for machines in [(), (("desk", "other"),), (("else", MACHINE[1]),)]:
            assert claim(store, worker, machines=machines).leases == ()
            assert claim(store, worker, machines=machines, run="a1").leases == ()
        assert len(claim(store, worker, machines=(("else", "x"), MACHINE)).leases) == 1

    def test_a_claim_takes_the_oldest_up_to_its_limit(self, store: Store) -> None:
        for number in range(5):
            begin(store, Author(f"a{number}"))
        worker = join(store)
        assert [lease.snapshot.row.id for lease in claim(store, worker, limit=2).leases] == ["a0", "a1"]
        assert [lease.snapshot.row.id for lease in claim(store, worker, limit=9).leases] == ["a2", "a3", "a4"]

    def test_two_claims_in_a_batch_share_nothing(self, store: Store) -> None:
        begin(store, Author("a1"))
        one, two = join(store, "one"), join(store, "two")
        assert len(claim(store, one).leases) + len(claim(store, two).leases) == 1

    def test_a_waiting_run_is_claimed_when_due(self, store: Store) -> None:
        due = NOW + 1000
        parked(store, due=due)
        worker = join(store)
        early = claim(store, worker, at=due - 1)
        assert (early.leases, early.next_wake) == ((), due)
        assert claim(store, worker, at=due - 1, run="a1").leases == ()
        [lease] = claim(store, worker, at=due).leases
        assert lease.snapshot.row.status == "waiting"
        assert claim(store, worker, at=due).next_wake is None

    def test_next_wake_is_the_earliest_of_these_machines(self, store: Store) -> None:
        for number, due in enumerate((900, 700, 800)):
            parked(store, f"a{number}", due=NOW + due)
        worker = join(store)
        assert claim(store, worker).next_wake == NOW + 700
        assert claim(store, worker, machines=(("else", "x"),)).next_wake is None

    @pytest.mark.parametrize("word", ["waiting", "paused"])
    def test_a_parked_run_is_claimed_for_its_mail(self, store: Store, word: str) -> None:
        author = running(store)
        store.write([author.commit(status(word), release=True)])
        worker = join(store)
        assert claim(store, worker).leases == claim(store, worker, run="a1").leases == ()
        store.write([leave("a1", "i1", "resume")])
        [lease] = claim(store, worker).leases
        assert (lease.snapshot.row.status, lease.snapshot.inbox[0].id) == (word, "i1")

    def test_a_run_by_name_is_claimed_alone(self, store: Store) -> None:
        begin(store, Author("a1")), begin(store, Author("a2"))
        worker = join(store)
        assert [lease.snapshot.row.id for lease in claim(store, worker, run="a2").leases] == ["a2"]
        assert claim(store, worker, run="a2").leases == claim(store, worker, run="none").leases == ()

    def test_an_ended_run_is_never_claimed(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(status("failed", deadline_at=NOW), release=True)])
        other = join(store, "other")
        assert claim(store, other).leases == claim(store, other, run="a1").leases == ()

    def test_a_beating_holder_keeps_its_runs(self, store: Store) -> None:
        author = running(store)
        other = join(store, "other")
        seen = self.beat(store, author.worker)
        store.write([Beat(author.worker, NOW + 50)])
        assert claim(store, other, still={author.worker: seen}).leases == ()

    def test_a_commit_counts_as_a_beat(self, store: Store) -> None:
        author = running(store)
        other = join(store, "other")
        seen = self.beat(store, author.worker)
        store.write([author.commit()])
        assert claim(store, other, still={author.worker: seen}).leases == ()
        assert self.beat(store, author.worker) > seen

    def test_a_refused_commit_is_no_beat(self, store: Store) -> None:
        author = running(store)
        seen = self.beat(store, author.worker)
        store.write([replace(author.commit(), fence=77)])
        assert self.beat(store, author.worker) == seen

    def test_a_still_holder_loses_its_runs(self, store: Store) -> None:
        author = running(store)
        other = join(store, "other")
        [lease] = claim(store, other, still={author.worker: self.beat(store, author.worker)}).leases
        assert (lease.fence, lease.previous, lease.why) == (author.fence + 1, "holder of a1", "still")

    @pytest.mark.parametrize("named", [None, "a1"])
    def test_a_run_past_its_deadline_may_be_claimed(self, store: Store, named: str | None) -> None:
        author = running(store)
        store.write([author.commit(replace(ROW, deadline_at=NOW + 500))])
        other = join(store, "other")
        assert claim(store, other, at=NOW + 499, run=named).leases == ()
        [lease] = claim(store, other, at=NOW + 500, run=named).leases
        assert (lease.previous, lease.why) == ("holder of a1", "deadline")

    def test_a_worker_takes_no_run_from_itself(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(replace(ROW, deadline_at=NOW + 500))])
        still = {author.worker: self.beat(store, author.worker)}
        assert claim(store, author.worker, at=NOW + 900, still=still).leases == ()

    # -- workers ------------------------------------------------------------------------------------------------------

    def test_a_worker_that_parts_releases_what_it_holds(self, store: Store) -> None:
        author = running(store)
        assert store.write([Part(author.worker, NOW + 9)]) == [Done()]
        row = store.find("a1")
        assert (row.status, row.worker) == ("ready", None)
        assert store.workers() == []
        [lease] = claim(store, join(store, "next")).leases
        assert (lease.fence, lease.why) == (author.fence + 1, "")

    def test_parting_keeps_a_waiting_run_waiting(self, store: Store) -> None:
        author = parked(store, due=NOW + 100)
        worker = join(store)
        claim(store, worker, at=NOW + 100)
        store.write([Part(worker, NOW + 101)])
        assert store.find(author.run).status == "waiting"

    def test_numbers_of_workers_are_never_given_twice(self, store: Store) -> None:
        first = join(store)
        store.write([Part(first, NOW)])
        assert join(store) > first

    def test_a_heartbeat_tells_of_the_others_and_of_mail(self, store: Store) -> None:
        one, two = running(store, "a1"), running(store, "a2")
        idle = join(store, "idle")
        store.write([leave("a1", "i1")])
        [answer] = store.write([Beat(one.worker, NOW + 7)])
        assert answer == Beaten({two.worker: self.beat(store, two.worker)}, (one.number,), known=True)
        assert idle not in answer.beats
        [row] = [row for row in store.workers() if row.number == one.worker]
        assert (row.name, row.host, row.pid, row.joined_at, row.beat_at) == ("holder of a1", "host", 4711, NOW, NOW + 7)

    def test_a_worker_that_was_struck_off_learns_it(self, store: Store) -> None:
        worker = join(store)
        store.write([Part(worker, NOW)])
        [answer] = store.write([Beat(worker, NOW)])
        assert isinstance(answer, Beaten) and not answer.known
        begin(store, Author("a1"))
        assert claim(store, worker).leases == ()

    def test_a_released_run_is_ready_again(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(release=True)])
        assert (store.find("a1").status, store.find("a1").worker) == ("ready", None)
        [lease] = claim(store, author.worker).leases
        assert lease.fence == author.fence + 1

    # -- reads --------------------------------------------------------------------------------------------------------

    def test_a_run_is_found_by_id_beginning_or_last(self, store: Store) -> None:
        for run in ("abc1", "abd2", "abd", "ABD"):
            begin(store, Author(run))
        assert [store.find(name).id for name in ("abc1", "abc", "abd", "abd2", "@last")] == [
            "abc1", "abc1", "abd", "abd2", "ABD",
        ]  # fmt: skip

    @pytest.mark.parametrize("name", ["ab", "zz", "", "%", "_bc", "abc1x"])
    def test_an_unknown_or_ambiguous_id_is_refused(self, store: Store, name: str) -> None:
        begin(store, Author("abc1")), begin(store, Author("abd2"))
        with pytest.raises(UnknownRun, match="more than one" if name == "ab" else "no run"):
            store.find(name)

    def test_an_empty_store_has_no_last_run(self, store: Store) -> None:
        with pytest.raises(UnknownRun):
            store.find("@last")
        with pytest.raises(UnknownRun):
            store.snapshot(1)
        assert (store.runs(), store.waits(), store.workers(), store.spent_since(0)) == ([], [], [], 0)

    def test_events_are_read_in_stretches(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(events=5)])
        for first, last, expected in [(1, None, [1, 2, 3, 4, 5, 6]), (3, 4, [3, 4]), (6, 99, [6]), (7, None, [])]:
            assert [event.seq for event in store.events(author.number, first, last)] == expected

    def test_the_log_reads_back_as_one_chain(self, store: Store) -> None:
        one, two = running(store, "a1"), running(store, "a2")
        for step in range(10):
            store.write([one.commit(events=1 + step % 3), two.commit(events=2)])
        for author in (one, two):
            row, log = store.find(author.run), store.events(author.number)
            assert first_break(row.id, log, row.seq, row.head) is None

    def test_runs_are_listed_newest_first_and_filtered(self, store: Store) -> None:
        begin(store, Author("a1"), at=NOW)
        begin(store, Author("a2", machine="else"), at=NOW + 5)
        begin(store, Author("a3"), row=status("waiting"), at=NOW + 9)

        def listed(which: RunFilter) -> list[str]:
            return [row.id for row in store.runs(which)]

        assert listed(RunFilter()) == ["a3", "a2", "a1"]
        assert listed(RunFilter(machine="else")) == ["a2"]
        assert listed(RunFilter(statuses=("waiting", "failed"))) == ["a3"]
        assert listed(RunFilter(changed_since=NOW + 5)) == ["a3", "a2"]
        assert listed(RunFilter(limit=1)) == ["a3"]

    def test_spending_is_summed_from_a_moment_on(self, store: Store) -> None:
        author = running(store)
        for at, cost in [(100, 7), (200, 5), (300, None), (400, 11), (500, -1)]:
            store.write([self.said(author, at=NOW + at, **({} if cost is None else {"nanousd": cost}))])
        assert [store.spent_since(NOW + at) for at in (0, 100, 101, 200, 400, 500, 501)] == [22, 22, 15, 15, 10, -1, 0]

    def test_a_sound_store_has_no_stray_events(self, store: Store) -> None:
        running(store, "a1")
        parked(store, "b2")
        assert store.strays() == []

    def test_a_snapshot_is_as_long_as_the_turn_not_the_history(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(events=50), author.commit(replace(ROW, turn_seq=51), events=2)])
        assert [event.seq for event in store.snapshot(author.number).journal] == [52, 53]

    # -- append only --------------------------------------------------------------------------------------------------

    def test_the_raw_database_refuses_to_change_events(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(events=3)])
        before = dump(store)
        assert self.FORBIDDEN
        for statement in self.FORBIDDEN:
            with self.tamper(store, statement):
                pass
            assert dump(store) == before, statement

    def test_closing_twice_is_harmless(self, store: Store) -> None:
        store.close()
        store.close()
        [answer] = store.write([Author().start()])
        assert isinstance(answer, Failed)

    def test_a_sound_store_has_no_errors(self, store: Store) -> None:
        running(store)
        assert [finding for finding in store.check() if finding.severity == "error"] == []

    # -- words --------------------------------------------------------------------------------------------------------

    def beat(self, store: Store, worker: int) -> int:
        return next(row.beat for row in store.workers() if row.number == worker)

    def next_commit(self, store: Store, author: Author, **more: Any) -> Commit:
        """A commit that fits the run as it stands, whatever the author tried before."""
        row = store.find(author.run)
        author.seq, author.head = row.seq, row.head
        return author.commit(**more)

    def said(self, author: Author, **fields: Any) -> Commit:
        """A commit of one event with these fields."""
        after = author.seq
        return replace(author.commit(told=(author.event(**fields),)), after=after)

    # -- breakers -----------------------------------------------------------------------------------------------------

    def test_the_fifth_failure_in_a_row_opens_a_breaker_with_a_line_in_its_log(self, store: Store) -> None:
        for n in range(5):
            [answer] = store.write([failed(NOW + n)])
            assert isinstance(answer, Standing)
        assert (answer.breaker.state, answer.breaker.until) == ("open", NOW + 4 + 30_000)
        assert store.breakers() == [answer.breaker]
        [line] = store.breaker_log(BREAKER)
        assert (line.what, line.state, line.at) == ("opened", "open", NOW + 4)
        assert line.reason == "5 failures in a row, the last: 503"

    def test_a_failure_is_forgotten_when_a_later_call_is_answered(self, store: Store) -> None:
        store.write([failed(NOW)])
        assert [row.failures for row in store.breakers()] == [(NOW - 1,)]
        store.write([Report(BREAKER, "answered", NOW + 9, NOW + 5, TERMS, calls=1)])
        assert store.breakers() == [] and len(store.breakers(all=True)) == 1 and store.breaker_log() == []

    def test_an_intent_does_not_pass_an_open_breaker_and_nothing_is_written(self, store: Store) -> None:
        author = running(store)
        open_breaker(store)
        before = dump(store)
        commit = author.commit(begins=True, guards=(Guard(BREAKER),))
        assert store.write([commit]) == [Refused("breaker")]
        assert dump(store) == before
        assert store.write([replace(commit, guards=(Guard("model:other"),))]) == [Committed(mail=False)]

    def test_within_one_batch_what_a_report_opens_is_shut_for_the_commit_after_it(self, store: Store) -> None:
        author = running(store)
        passes = author.commit(begins=True, guards=(Guard(BREAKER),))
        too_late = author.commit(begins=True, guards=(Guard(BREAKER),))
        answers = store.write([passes, *[failed(NOW + n) for n in range(5)], too_late])
        assert (answers[0], answers[-1]) == (Committed(mail=False), Refused("breaker"))

    def test_a_commit_sent_again_is_recognised_also_after_its_breaker_opened(self, store: Store) -> None:
        author = running(store)
        commit = author.commit(begins=True, guards=(Guard(BREAKER),))
        store.write([commit])
        open_breaker(store)
        assert store.write([commit]) == [Committed(mail=False)]

    def test_one_probe_is_given_and_one_intent_passes_with_it(self, store: Store) -> None:
        author, other = running(store), running(store, "a2")
        later = open_breaker(store)
        first, second = store.write([Probe(BREAKER, later, later + 9, "run a1"), Probe(BREAKER, later, later, "x")])
        assert isinstance(first, Standing) and isinstance(second, Standing)
        assert (first.granted, second.granted) == (1, 0)
        guard = Guard(BREAKER, 1, later + 50)
        plain = other.commit(begins=True, guards=(Guard(BREAKER),))
        wrong = replace(plain, guards=(Guard(BREAKER, 2),))
        assert store.write([wrong, plain]) == [Refused("breaker")] * 2
        passes, again = author.commit(begins=True, guards=(guard,)), author.commit(begins=True, guards=(guard,))
        assert store.write([passes, again]) == [Committed(mail=False), Refused("breaker")]
        [row] = store.breakers()
        assert (row.state, row.sent, row.until) == ("half_open", True, later + 50)
        assert store.write([passes]) == [Committed(mail=False)]

    def test_two_intents_of_one_commit_do_not_share_a_probe(self, store: Store) -> None:
        author = running(store)
        later = open_breaker(store)
        store.write([Probe(BREAKER, later, later + 9, "run a1")])
        guard = Guard(BREAKER, 1, later + 50)
        commit = author.commit(begins=True, guards=(guard, guard))
        assert store.write([commit]) == [Refused("breaker")]
        assert store.write([replace(commit, guards=(guard, Guard(BREAKER)))]) == [Refused("breaker")]
        assert store.write([replace(commit, guards=(guard,))]) == [Committed(mail=False)]

    def test_a_probe_that_nobody_tells_of_is_given_to_the_next_when_its_lease_is_over(self, store: Store) -> None:
        later = open_breaker(store)
        store.write([Probe(BREAKER, later, later + 9, "run a1")])
        early, [late] = (
            store.write([Probe(BREAKER, later + 8, later + 99, "run a2")]),
            store.write([Probe(BREAKER, later + 9, later + 99, "run a2")]),
        )
        assert [answer.granted for answer in [*early, late] if isinstance(answer, Standing)] == [0, 2]

    @pytest.mark.parametrize(("said", "state"), [("answered", "closed"), ("failed", "open"), ("unsent", "open")])
    def test_what_a_probe_tells_closes_or_opens_it(self, store: Store, said: str, state: str) -> None:
        later = open_breaker(store)
        store.write([Probe(BREAKER, later, later + 9, "run a1")])
        [answer] = store.write([Report(BREAKER, said, later + 5, later + 1, TERMS, probe=1, why="503")])
        assert isinstance(answer, Standing) and answer.breaker.state == state
        assert store.breaker_log(BREAKER)[-1].state == state

    def test_a_person_opens_and_closes_a_breaker(self, store: Store) -> None:
        store.write([Trip(BREAKER, NOW, "ann", "dear"), Reset(BREAKER, NOW + 1, "ben", "cheap")])
        assert [(line.what, line.by, line.reason) for line in store.breaker_log()] == [
            ("tripped", "ann", "dear"),
            ("reset", "ben", "cheap"),
        ]

    def test_a_heartbeat_is_told_of_breakers_that_are_not_at_rest(self, store: Store) -> None:
        worker = join(store)
        store.write([failed(NOW)])
        [answer] = store.write([Beat(worker, NOW)])
        assert isinstance(answer, Beaten) and [row.name for row in answer.breakers] == [BREAKER]

    def test_a_breakers_last_line_says_how_it_stands(self, store: Store, chance: Random) -> None:
        """Random reports, probes and people: state, time and probe of the row are those of its last line."""
        now, wanted = NOW, {"opened", "probed", "reopened", "closed"}
        for step in range(10_000):
            if step > 400 and {line.what for line in store.breaker_log()} >= wanted:
                break  # chance brings all of them sooner or later
            now += chance.choice([1, 500, 31_000])
            probe = chance.choice([0, 0, 0, *[row.probe for row in store.breakers()]])
            said = chance.choice(["answered", "failed", "failed", "failed", "unsent"])
            write = chance.choice(
                [
                    Report(BREAKER, said if probe or said != "unsent" else "failed", now, now - 1, TERMS, probe=probe),
                    Report(BREAKER, "failed", now, now - 1, TERMS),
                    Probe(BREAKER, now, now + 9, "run"),
                    *([Trip(BREAKER, now, "ann")] if chance.random() < 0.05 else []),
                    *([Reset(BREAKER, now, "ann")] if chance.random() < 0.05 else []),
                ]
            )
            store.write([write])
            if log := store.breaker_log(BREAKER):
                [row] = store.breakers(all=True)
                used = row.sent  # its lease is then that of the attempt
                assert (row.state, row.probe) == (log[-1].state, log[-1].probe)
                assert used or row.until == log[-1].until
        assert {line.what for line in store.breaker_log()} >= wanted

    # -- outbox -------------------------------------------------------------------------------------------------------

    def test_a_notice_is_written_with_its_commit_or_not_at_all(self, store: Store) -> None:
        author = running(store)
        store.write([leave("a1", "stop", kind="cancel")])
        refused = author.commit(begins=True, notices=(notice("n0"),))
        stale = replace(refused, begins=False, fence=author.fence + 1)
        assert store.write([refused, stale]) == [Refused("halt"), Stale()] and store.notices(all=True) == []
        commit = replace(refused, id=b"next", begins=False)
        assert store.write([commit, commit]) == [Committed(mail=True)] * 2
        assert [(row.id, row.run, row.status, row.due) for row in store.notices()] == [("n0", "a1", "due", commit.at)]
        assert store.next_notice() == commit.at

    def test_a_notice_with_an_id_that_was_given_fails_with_its_commit(self, store: Store) -> None:
        """Ids are made of the event: twice the same is a bug, and no fact may be lost in it."""
        author = running(store)
        [first, second] = store.write([author.commit(notices=(notice("n0"),)), author.commit(notices=(notice("n0"),))])
        assert isinstance(first, Committed) and isinstance(second, Failed)
        assert len(store.notices()) == 1 and store.find("a1").seq == 2

    def test_a_notice_that_is_taken_is_nobody_elses_until_its_lease_runs_out(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(notices=tuple(notice(f"n{n}") for n in range(3)), at=NOW)])
        [some, rest, none] = store.write([take(2, at=NOW), take(5, at=NOW), take(5, at=NOW + 59)])
        assert [one.id for one in taken(some)] == ["n0", "n1"] and [one.id for one in taken(rest)] == ["n2"]
        assert taken(none) == () and store.next_notice() == NOW + 60
        [again] = store.write([take(5, at=NOW + 60)])
        assert [(one.id, one.attempt) for one in taken(again)] == [("n0", 2), ("n1", 2), ("n2", 2)]

    def test_who_lost_the_lease_settles_nothing(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(notices=(notice("n0"),), at=NOW)])
        [first, second] = store.write([take(1, at=NOW), take(1, at=NOW + 60)])
        late, now = (settle(taken(one)[0], "delivered") for one in (first, second))
        assert store.write([late, now, now]) == [Stale(), Done(), Stale()]
        assert [row.status for row in store.notices(all=True)] == ["delivered"] and store.next_notice() is None

    def test_a_notice_is_taken_again_when_it_is_due_again_and_a_dead_one_is_not(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(notices=(notice("n0"), notice("n1")), at=NOW)])
        [got] = store.write([take(2, at=NOW)])
        one, other = taken(got)
        store.write([settle(one, "due", due=NOW + 500, message="503"), settle(other, "dead", message="410")])
        [early, then] = store.write([take(2, at=NOW + 499), take(2, at=NOW + 500)])
        assert (taken(early), [each.id for each in taken(then)]) == ((), ["n0"])
        assert [(row.id, row.status, row.message) for row in store.notices()] == [
            ("n0", "sending", "503"),
            ("n1", "dead", "410"),
        ]

    def test_a_person_decides_about_a_notice_that_is_dead_and_no_other(self, store: Store) -> None:
        author = running(store)
        store.write([author.commit(notices=(notice("n0"),), at=NOW)])
        again, drop = (DecideNotice("n0", to, NOW + 9, "ada", "why") for to in ("due", "dropped"))
        assert store.write([again]) == [Shut("due")]
        [got] = store.write([take(1, at=NOW)])
        assert store.write([drop, settle(taken(got)[0], "dead"), again]) == [Shut("sending"), Done(), Done()]
        assert [(row.status, row.attempts, row.due, row.by) for row in store.notices()] == [("due", 0, NOW + 9, "ada")]
        assert store.write([drop, again]) == [Done(), Shut("dropped")]
        assert store.write([replace(again, id="n9")]) == [Shut("unknown")]

    def test_notices_are_listed_by_run(self, store: Store) -> None:
        first, second = running(store), running(store, "b2")
        store.write([first.commit(notices=(notice("n0"),)), second.commit(notices=(notice("n1"),))])
        assert [row.id for row in store.notices()] == ["n0", "n1"]
        assert [row.id for row in store.notices(run=second.number)] == ["n1"]


def notice(name: str) -> Notice:
    return Notice(name, 2, b'{"type":"run.waiting"}')


def take(limit: int, at: int) -> TakeNotices:
    return TakeNotices(limit, at, until=at + 60)


def taken(answer: Answer) -> tuple[TakenNotice, ...]:
    assert isinstance(answer, Taking), answer
    return answer.notices


def settle(one: TakenNotice, status: str, due: int = NOW, message: str = "") -> SettleNotice:
    return SettleNotice(one.number, one.attempt, status, due, message, NOW + 7)
