-- The store of interlock, first schema.
--
-- One run is one row in `run`, one row in `account`, and a growing list in `event`. Everything else hangs on the run's
-- number: the cells of its record, its waits, its inbox. Only the holder of a run's current fence appends to its log;
-- everybody else leaves an inbox row. What happens to a run happens in one transaction or not at all.
--
-- Times are milliseconds since 1970 UTC, money is nano-dollars, both integers. Hashes are raw SHA-256. JSON is UTF-8 text.
--
--   run      (new) -> ready -> running -> ready | waiting | paused | completed | failed | cancelled
--            ready     a worker may claim it
--            running   a worker holds it (`worker` is set; the claim raised `fence`)
--            waiting   for a person, signal, time or child; claimed again when `wake_at` has come or `mail` is set
--            paused    claimed only when `mail` is set
--            completed, failed, cancelled   the end; nothing leads out of these
--   wait     open (closed = '') -> decision | signal | timer | cancel        once, by compare-and-set
--   inbox    unread (taken IS NULL) -> taken by event number `taken`         once, in order, by the run's holder
--   account  held rises before an attempt, and moves to spent when it is settled
--   worker   joined -> beats -> gone; its runs are claimed by others once its lock file is free or its beat stands still

-- Who this file is. `incarnation` rises each time it is found to be restored from a backup.
CREATE TABLE store (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    id          TEXT NOT NULL,
    incarnation INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL
) STRICT;

-- Which schema files were applied. `checksum` leaves comments and blank space out, so that prose may be mended.
CREATE TABLE migration (
    number     INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT;

-- A process that claims runs. `beat` rises with every heartbeat and every commit. Numbers are never given out twice.
CREATE TABLE worker (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    name      TEXT NOT NULL,
    host      TEXT NOT NULL,
    pid       INTEGER NOT NULL,
    beat      INTEGER NOT NULL DEFAULT 0,
    joined_at INTEGER NOT NULL,
    beat_at   INTEGER NOT NULL
) STRICT;

-- Where turns, calls, tokens, money and active time are counted. `spent` may pass `ceiling` (a settlement is always
-- accepted); the engine admits before it holds. `parent`: the account this one draws from.
CREATE TABLE account (
    number            INTEGER PRIMARY KEY,
    parent            INTEGER REFERENCES account (number),
    ceiling_turns     INTEGER NOT NULL CHECK (ceiling_turns >= 0),
    ceiling_calls     INTEGER NOT NULL CHECK (ceiling_calls >= 0),
    ceiling_tokens    INTEGER NOT NULL CHECK (ceiling_tokens >= 0),
    ceiling_nanousd   INTEGER NOT NULL CHECK (ceiling_nanousd >= 0),
    ceiling_active_ms INTEGER NOT NULL CHECK (ceiling_active_ms >= 0),
    spent_turns       INTEGER NOT NULL CHECK (spent_turns >= 0),
    spent_calls       INTEGER NOT NULL CHECK (spent_calls >= 0),
    spent_tokens      INTEGER NOT NULL CHECK (spent_tokens >= 0),
    spent_nanousd     INTEGER NOT NULL CHECK (spent_nanousd >= 0),
    spent_active_ms   INTEGER NOT NULL CHECK (spent_active_ms >= 0),
    held_turns        INTEGER NOT NULL CHECK (held_turns >= 0),
    held_calls        INTEGER NOT NULL CHECK (held_calls >= 0),
    held_tokens       INTEGER NOT NULL CHECK (held_tokens >= 0),
    held_nanousd      INTEGER NOT NULL CHECK (held_nanousd >= 0),
    held_active_ms    INTEGER NOT NULL CHECK (held_active_ms >= 0)
) STRICT;

-- One life of a machine, as it stands now. `seq` and `head` are the count and the last hash of its log; `turn_seq` the
-- count before the current turn began; `commit_id` the last commit, so that the same one again recognises itself;
-- `live` the folded state, which only the engine reads.
CREATE TABLE run (
    number       INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    tenant       TEXT NOT NULL,
    machine      TEXT NOT NULL,
    shape        TEXT NOT NULL,
    content      TEXT NOT NULL,
    key          TEXT,
    input_digest TEXT NOT NULL,
    status       TEXT NOT NULL
                 CHECK (status IN ('ready', 'running', 'waiting', 'paused', 'completed', 'failed', 'cancelled')),
    reason       TEXT NOT NULL,
    state        TEXT NOT NULL,
    turn         INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    head         BLOB NOT NULL,
    turn_seq     INTEGER NOT NULL,
    fence        INTEGER NOT NULL DEFAULT 0,
    worker       INTEGER,
    wake_at      INTEGER,
    deadline_at  INTEGER,
    mail         INTEGER NOT NULL DEFAULT 0 CHECK (mail IN (0, 1)),
    account      INTEGER NOT NULL REFERENCES account (number),
    commit_id    BLOB NOT NULL,
    created_at   INTEGER NOT NULL,
    changed_at   INTEGER NOT NULL,
    live         TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX run_key ON run (tenant, machine, key) WHERE key IS NOT NULL;
CREATE INDEX run_due ON run (status, wake_at);
CREATE INDEX run_mail ON run (number) WHERE mail = 1;
CREATE INDEX run_held ON run (worker) WHERE worker IS NOT NULL;

-- What happened. Appended, never changed; each hash covers the one before it and the digest of the body.
CREATE TABLE event (
    number INTEGER PRIMARY KEY,
    run    INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    body   TEXT NOT NULL,
    hash   BLOB NOT NULL,
    UNIQUE (run, seq)
) STRICT;

CREATE TRIGGER event_is_not_updated BEFORE UPDATE ON event
BEGIN SELECT RAISE(ABORT, 'events are append-only: UPDATE is refused'); END;

CREATE TRIGGER event_is_not_deleted BEFORE DELETE ON event
BEGIN SELECT RAISE(ABORT, 'events are append-only: DELETE is refused'); END;

-- REPLACE deletes the old row without firing the DELETE trigger, so an event that exists is refused before it gets there;
-- and an event only ever goes behind the last one of its run. FAIL and not ABORT, here and in the statement that appends:
-- ABORT would have SQLite keep a journal for each event, which costs as much as writing it.
CREATE TRIGGER event_is_not_replaced BEFORE INSERT ON event
WHEN EXISTS (SELECT 1 FROM event WHERE run = NEW.run AND seq >= NEW.seq)
  OR EXISTS (SELECT 1 FROM event WHERE number = NEW.number)
BEGIN SELECT RAISE(FAIL, 'events are append-only: this one, or a later one, exists'); END;

-- Where each value of a run's record stands in its log: event `seq`, at `path`. `item` -1 is the field's whole value;
-- 0, 1, ... are items appended to it. `origin`: where the value came from. Rows are small, so the key is the table.
CREATE TABLE cell (
    run    INTEGER NOT NULL,
    field  TEXT NOT NULL,
    item   INTEGER NOT NULL CHECK (item >= -1),
    seq    INTEGER NOT NULL,
    path   TEXT NOT NULL,
    origin TEXT NOT NULL,
    PRIMARY KEY (run, field, item)
) STRICT, WITHOUT ROWID;

-- A durable wait. The event `seq` holds its prompt and form.
CREATE TABLE wait (
    run       INTEGER NOT NULL,
    number    INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    why       TEXT NOT NULL,
    seq       INTEGER NOT NULL,
    of        TEXT NOT NULL,
    signal    TEXT,
    due       INTEGER,
    opened_at INTEGER NOT NULL,
    closed    TEXT NOT NULL DEFAULT '',
    closed_at INTEGER,
    UNIQUE (run, number)
) STRICT;
CREATE INDEX wait_open ON wait (run) WHERE closed = '';

-- What everyone who doesn't hold a run's lease left for it. A taken row stays, so that the same id never counts twice.
CREATE TABLE inbox (
    number  INTEGER PRIMARY KEY,
    id      TEXT NOT NULL UNIQUE,
    run     INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    body    TEXT NOT NULL,
    left_at INTEGER NOT NULL,
    taken   INTEGER
) STRICT;
CREATE INDEX inbox_unread ON inbox (run) WHERE taken IS NULL;

-- Values too large for an event's body, once each, by their SHA-256.
CREATE TABLE payload (
    digest BLOB NOT NULL UNIQUE,
    body   BLOB NOT NULL
) STRICT;
