-- The outbox: what is still to be said about a run, and what has been. A row is written by the commit of the event that
-- it tells of, so neither is without the other. Whoever delivers leases a row until `due`, so no two send it at once;
-- a lease that runs out is due again, and what is delivered twice carries the same id.
--
--   notice   (new) -> due -> sending -> delivered | due (again, later) | dead       dead, due -> dropped     dead -> due
--            due        to be sent when `due` has come
--            sending    leased by whoever took it as attempt number `attempts`; due again when `due` has come
--            delivered  the receiver said so
--            dead       every attempt failed, or the receiver wants no more; a person sends it again or drops it
--            dropped    a person said that it needn't be sent
CREATE TABLE notice (
    number     INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    run        INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    body       TEXT NOT NULL,
    status     TEXT NOT NULL DEFAULT 'due' CHECK (status IN ('due', 'sending', 'delivered', 'dead', 'dropped')),
    attempts   INTEGER NOT NULL DEFAULT 0,
    due        INTEGER NOT NULL,
    message    TEXT NOT NULL DEFAULT '',
    by         TEXT NOT NULL DEFAULT '',
    reason     TEXT NOT NULL DEFAULT '',
    made_at    INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;
CREATE INDEX notice_due ON notice (due) WHERE status IN ('due', 'sending');
CREATE INDEX notice_dead ON notice (number) WHERE status = 'dead';
CREATE INDEX notice_of ON notice (run);
