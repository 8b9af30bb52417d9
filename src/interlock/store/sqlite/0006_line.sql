-- The line for a place among the calls of a tool with limits.
--
-- A run that is refused a place stands in it, in the order of the first refusal, so that each can be told when its turn
-- will come instead of all asking again at once. It decides nothing: a place goes to whoever asks while one is free, except
-- before those whose time has just come. `at`: when a rate lets it begin (NULL: when it asks again is its own affair).
-- Who hasn't asked again by `until` has left. A row goes with the place that it waited for, or the run's end.
CREATE TABLE call_line (
    number INTEGER PRIMARY KEY,
    tool   TEXT NOT NULL,
    run    INTEGER NOT NULL,
    at     INTEGER,
    until  INTEGER NOT NULL,
    UNIQUE (run, tool)
) STRICT;
CREATE INDEX call_line_of ON call_line (tool, number);
