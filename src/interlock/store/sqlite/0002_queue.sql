-- The queue of tool calls.
--
-- One row for every tool call that isn't done with, written by the run's own commit from its events, so that `verify`
-- compares them. The worker that holds the run carries it out; a row is never handed to anybody else.
--
--   call     (new) -> under way            with the intent of its first attempt
--            under way -> (gone)           a result came, the tool refused, or its turn has ended
--            under way -> due              the attempt failed; tried again from `due` on
--            under way -> in doubt         it may have happened; cleared as every doubt is
--            under way, in doubt -> dead   it failed for good, and stays until a person redoes or drops it
--            (new) -> reserved             it may begin: only of tools with limits, and only until `reserved`
--
-- `until`: the attempt may be on its way until then; 0: it surely isn't. A call counts among those of its tool that are
-- under way as long as the later of `until` and `reserved` hasn't passed. `fence` is the token under which its result
-- counts; later ones are evidence. `asked`: what a person said of a dead call, and who; its run hasn't read it yet.
CREATE TABLE call (
    run      INTEGER NOT NULL,
    effect   INTEGER NOT NULL,
    status   TEXT NOT NULL CHECK (status IN ('reserved', 'under way', 'due', 'in doubt', 'dead')),
    tool     TEXT NOT NULL,
    way      TEXT NOT NULL,
    attempt  INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    until    INTEGER NOT NULL DEFAULT 0,
    due      INTEGER,
    failed   INTEGER NOT NULL DEFAULT 0,
    limited  INTEGER NOT NULL DEFAULT 0 CHECK (limited IN (0, 1)),
    redoes   INTEGER,
    fence    INTEGER NOT NULL,
    reserved INTEGER NOT NULL DEFAULT 0,
    asked    TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, effect)
) STRICT, WITHOUT ROWID;
CREATE INDEX call_limited ON call (tool) WHERE limited = 1;
CREATE INDEX call_dead ON call (run, effect) WHERE status = 'dead';
CREATE INDEX call_redone ON call (run) WHERE redoes IS NOT NULL AND status IN ('under way', 'due');

-- When calls of a tool with a rate were let begin; those older than its period go.
CREATE TABLE call_start (
    tool TEXT NOT NULL,
    at   INTEGER NOT NULL
) STRICT;
CREATE INDEX call_started ON call_start (tool, at);
