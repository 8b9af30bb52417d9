-- Breakers: switches in front of models and tools, shared by every process on this store.
--
--   breaker  closed -> open -> half_open -> closed | open       a person: any -> open (tripped), any -> closed (reset)
--            closed     calls pass
--            open       none does, before `until` (NULL: before a person resets it)
--            half_open  one does: probe number `probe`, leased until `until`; `sent` once its intent is committed
--
-- The commit of a call's intent reads its breaker in the same transaction, so no process can pass one that another has
-- opened. `failures` is a JSON array: when the failures that count were sent. The window counts calls from `window_at` on.
CREATE TABLE breaker (
    name          TEXT PRIMARY KEY,
    state         TEXT NOT NULL CHECK (state IN ('closed', 'open', 'half_open')),
    failures      TEXT NOT NULL,
    window_at     INTEGER NOT NULL,
    window_calls  INTEGER NOT NULL CHECK (window_calls >= 0),
    window_failed INTEGER NOT NULL CHECK (window_failed >= 0),
    changed_at    INTEGER NOT NULL,
    until         INTEGER,
    probe         INTEGER NOT NULL CHECK (probe >= 0),
    sent          INTEGER NOT NULL CHECK (sent IN (0, 1)),
    reason        TEXT NOT NULL,
    by            TEXT NOT NULL
) STRICT;

-- What happened to each, with who and why. Appended, never changed. The last line says how the breaker stands.
CREATE TABLE breaker_event (
    number INTEGER PRIMARY KEY,
    what   TEXT NOT NULL,
    name   TEXT NOT NULL,
    state  TEXT NOT NULL,
    at     INTEGER NOT NULL,
    until  INTEGER,
    probe  INTEGER NOT NULL,
    reason TEXT NOT NULL,
    by     TEXT NOT NULL
) STRICT;
CREATE INDEX breaker_event_of ON breaker_event (name);

CREATE TRIGGER breaker_event_is_not_updated BEFORE UPDATE ON breaker_event
BEGIN SELECT RAISE(ABORT, 'the breakers'' log is append-only: UPDATE is refused'); END;

CREATE TRIGGER breaker_event_is_not_deleted BEFORE DELETE ON breaker_event
BEGIN SELECT RAISE(ABORT, 'the breakers'' log is append-only: DELETE is refused'); END;

CREATE TRIGGER breaker_event_is_not_replaced BEFORE INSERT ON breaker_event
WHEN EXISTS (SELECT 1 FROM breaker_event WHERE number = NEW.number)
BEGIN SELECT RAISE(ABORT, 'the breakers'' log is append-only: this line exists'); END;
