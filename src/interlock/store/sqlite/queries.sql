-- Every statement the SQLite store runs on its tables, by name. `?1` are parameters, in the order that the code gives them.
-- INDEXED BY where the planner, which knows no figures, would walk through every run or wait there ever was.
-- Bodies go in and come out as bytes; CAST keeps them readable as text in the file.

-- start_by_id --
-- The run that an earlier, identical start made.
SELECT id, number, input_digest FROM run WHERE id = ?1;

-- start_by_key --
-- The run that already answers to this key.
SELECT id, number, input_digest FROM run WHERE tenant = ?1 AND machine = ?2 AND key = ?3;

-- open_account --
-- A run's own account; it draws from no other yet.
INSERT INTO account (ceiling_turns, ceiling_calls, ceiling_tokens, ceiling_nanousd, ceiling_active_ms,
                     spent_turns, spent_calls, spent_tokens, spent_nanousd, spent_active_ms,
                     held_turns, held_calls, held_tokens, held_nanousd, held_active_ms)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15);

-- start_run --
-- A new run.  (new) -> the status it starts in, mostly ready
INSERT INTO run (id, tenant, machine, shape, content, key, input_digest, status, reason, state, turn, seq, head, turn_seq,
                 wake_at, deadline_at, account, commit_id, created_at, changed_at, live)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, x'', ?18, ?18, CAST(?19 AS TEXT));

-- run_for_commit --
-- What a commit is compared with.
SELECT worker, fence, seq, commit_id, status, wake_at, mail, account FROM run WHERE number = ?1;

-- commit_run --
-- After a commit that moves nothing a claim looks at: the indexes stay as they are.  running -> running
UPDATE run SET reason = ?2, state = ?3, turn = ?4, seq = ?5, head = COALESCE(?6, head), turn_seq = ?7, content = ?8, deadline_at = ?9,
               commit_id = ?10, changed_at = ?11, live = CAST(?12 AS TEXT)
WHERE number = ?1;

-- commit_run_and_move --
-- After any other commit.  running -> running, ready, waiting, paused or an end
UPDATE run SET reason = ?2, state = ?3, turn = ?4, seq = ?5, head = COALESCE(?6, head), turn_seq = ?7, content = ?8, deadline_at = ?9,
               commit_id = ?10, changed_at = ?11, live = CAST(?12 AS TEXT),
               status = ?13, wake_at = ?14, worker = ?15,
               mail = EXISTS (SELECT 1 FROM inbox WHERE run = ?1 AND taken IS NULL)
WHERE number = ?1
RETURNING mail;

-- settle_account --
-- An account after a commit.
UPDATE account SET ceiling_turns = ?2, ceiling_calls = ?3, ceiling_tokens = ?4, ceiling_nanousd = ?5,
                   ceiling_active_ms = ?6, spent_turns = ?7, spent_calls = ?8, spent_tokens = ?9, spent_nanousd = ?10,
                   spent_active_ms = ?11, held_turns = ?12, held_calls = ?13, held_tokens = ?14, held_nanousd = ?15,
                   held_active_ms = ?16
WHERE number = ?1;

-- append_event --
-- One more fact at the end of a run's log. FAIL, because whoever calls it undoes the whole transaction anyway.
INSERT OR FAIL INTO event (run, seq, body, hash) VALUES (?1, ?2, CAST(?3 AS TEXT), ?4);

-- drop_cells --
-- A field gets a new whole value: its earlier cells go.
DELETE FROM cell WHERE run = ?1 AND field = ?2;

-- drop_record --
-- A run goes back to an earlier record: the cells that say it follow.
DELETE FROM cell WHERE run = ?1;

-- put_cell --
-- Where a value of the record stands.
INSERT INTO cell (run, field, item, seq, path, origin) VALUES (?1, ?2, ?3, ?4, ?5, ?6);

-- keep_payload --
-- A large value, once.
INSERT INTO payload (digest, body) VALUES (?1, ?2) ON CONFLICT (digest) DO NOTHING;

-- open_wait --
-- A durable wait.  (new) -> open
INSERT INTO wait (run, number, kind, why, seq, of, signal, due, opened_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9);

-- wait_for_closing --
-- How a wait stands.
SELECT closed, due, kind FROM wait WHERE run = ?1 AND number = ?2;

-- cancel_unread --
-- Does a cancel lie unread? Then it was first, and closes every wait of the run as soon as a host reads it.
SELECT 1 FROM inbox WHERE run = ?1 AND taken IS NULL AND kind = 'cancel' LIMIT 1;

-- close_wait --
-- Who comes first closes it.  open -> decision, signal, timer or cancel
UPDATE wait SET closed = ?3, closed_at = ?4 WHERE run = ?1 AND number = ?2 AND closed = '';

-- halt_unread --
-- Does a pause, cancel or rollback lie unread? Then no effect may start, nor may the run end without it. One that ends (?2) waits for
-- unread evidence too: nobody claims it afterwards, and what it cost would stay a guess.
SELECT 1 FROM inbox WHERE run = ?1 AND taken IS NULL AND (kind IN ('pause', 'cancel', 'rollback') OR (?2 AND kind = 'evidence')) LIMIT 1;

-- take_item --
-- The owner consumed an inbox row.  unread -> taken
UPDATE inbox SET taken = ?3 WHERE id = ?1 AND run = ?2 AND taken IS NULL;

-- inbox_owner --
-- Was this id left before, and for which run?
SELECT run FROM inbox WHERE id = ?1;

-- run_for_leaving --
-- What something left for a run needs to know about it.
SELECT number, status, worker FROM run WHERE id = ?1;

-- leave_item --
-- Something for the run's owner.  (new) -> unread
INSERT INTO inbox (id, run, kind, body, left_at) VALUES (?1, ?2, ?3, CAST(?4 AS TEXT), ?5);

-- flag_mail --
-- The run has something to read; a host may claim it for that.
UPDATE run SET mail = 1 WHERE number = ?1 AND mail = 0;

-- join_worker --
-- A process that will claim runs.
INSERT INTO worker (name, host, pid, joined_at, beat_at, machines) VALUES (?1, ?2, ?3, ?4, ?4, ?5);

-- strike_worker --
-- A worker is gone and holds nothing.
DELETE FROM worker WHERE number = ?1;

-- strike_all_workers --
-- The store was restored: whoever was at work worked on another future of it.
DELETE FROM worker;

-- release_runs --
-- What a leaving worker held may be claimed again.  running -> ready
UPDATE run SET worker = NULL, status = CASE status WHEN 'running' THEN 'ready' ELSE status END WHERE worker = ?1;

-- idle_workers --
-- Workers that hold no run: rows to strike once their process is gone.
SELECT number FROM worker WHERE NOT EXISTS (SELECT 1 FROM run WHERE run.worker = worker.number);

-- worker_numbers --
-- Everyone who joined and hasn't left.
SELECT number FROM worker;

-- beat --
-- A worker lives.
UPDATE worker SET beat = beat + 1, beat_at = ?2 WHERE number = ?1;

-- other_beats --
-- The heartbeats of the other workers that hold runs.
SELECT number, beat FROM worker
WHERE number <> ?1 AND EXISTS (SELECT 1 FROM run WHERE run.worker = worker.number);

-- held_with_mail --
-- Which runs of this worker have something to read?
SELECT number FROM run WHERE worker = ?1 AND mail = 1;

-- claimable_with_mail --
-- Free runs with something to read, paused and ended ones included.
SELECT number FROM run INDEXED BY run_mail
WHERE mail = 1 AND worker IS NULL
  AND machine || '/' || shape IN (SELECT value FROM json_each(?1))
ORDER BY number LIMIT ?2;

-- claimable_due --
-- Waiting runs whose time has come, longest due first.
SELECT number FROM run
WHERE status = 'waiting' AND wake_at <= ?3 AND worker IS NULL
  AND machine || '/' || shape IN (SELECT value FROM json_each(?1))
ORDER BY wake_at LIMIT ?2;

-- claimable_ready --
-- Ready runs, oldest first.
SELECT number FROM run
WHERE status = 'ready' AND worker IS NULL
  AND machine || '/' || shape IN (SELECT value FROM json_each(?1))
ORDER BY wake_at, number LIMIT ?2;

-- held_by --
-- The runs of a worker that is permitted to lose them: open ones, and ended ones that still have something to do.
SELECT number FROM run
WHERE worker = ?3 AND (status NOT IN ('completed', 'failed', 'cancelled') OR mail = 1 OR {unfinished})
  AND machine || '/' || shape IN (SELECT value FROM json_each(?1))
ORDER BY number LIMIT ?2;

-- held_past_deadline --
-- Runs of other workers whose turn should have ended.
SELECT number FROM run INDEXED BY run_held
WHERE worker IS NOT NULL AND worker <> ?3 AND deadline_at <= ?4 AND status NOT IN ('completed', 'failed', 'cancelled')
  AND machine || '/' || shape IN (SELECT value FROM json_each(?1))
ORDER BY number LIMIT ?2;

-- reshape_run --
-- A run was moved to another shape of its machine.
UPDATE run SET shape = ?2 WHERE number = ?1;

-- run_for_claim --
-- One run, named: how it stands.
SELECT number, status, worker, wake_at, deadline_at, mail, {unfinished} FROM run
WHERE id = ?2 AND machine || '/' || shape IN (SELECT value FROM json_each(?1));

-- claim_run --
-- Lease a run and raise its fence.  ready -> running; waiting and paused keep their word until the holder commits
UPDATE run SET worker = ?2, fence = fence + 1, changed_at = ?3,
               status = CASE status WHEN 'ready' THEN 'running' ELSE status END
WHERE number = ?1;

-- beats --
-- Every worker's heartbeat.
SELECT number, beat FROM worker;

-- holder --
-- Who holds this run?
SELECT worker.name FROM run LEFT JOIN worker ON worker.number = run.worker WHERE run.number = ?1;

-- next_wake --
-- When the next waiting run of these machines is due.
SELECT wake_at FROM run
WHERE status = 'waiting' AND wake_at > ?2 AND worker IS NULL
  AND machine || '/' || shape IN (SELECT value FROM json_each(?1))
ORDER BY wake_at LIMIT 1;

-- park_open_runs --
-- The store was restored: a person releases each run.  ready, running, waiting, paused -> paused
UPDATE run SET status = 'paused', reason = ?1, fence = fence + 1, worker = NULL, changed_at = ?2
WHERE status IN ('ready', 'running', 'waiting', 'paused');

-- raise_incarnation --
-- A new epoch of this file.
UPDATE store SET incarnation = incarnation + 1;

-- identity --
-- Which file this is, and how far its log goes.
SELECT id, incarnation, (SELECT coalesce(max(number), 0) FROM event) FROM store;

-- run_by_number --
-- A run as it stands.
SELECT {run} WHERE run.number = ?1;

-- run_by_id --
-- A run by its whole id.
SELECT {run} WHERE run.id = ?1;

-- runs_by_prefix --
-- Runs whose id begins so; two are enough to know that it is ambiguous.
SELECT {run} WHERE run.id >= ?1 AND run.id < ?1 || char(1114111) LIMIT 2;

-- last_run --
-- The newest run.
SELECT {run} ORDER BY run.number DESC LIMIT 1;

-- runs --
-- Runs, newest first.
SELECT {run}
WHERE (?1 IS NULL OR run.machine = ?1)
  AND (?2 IS NULL OR run.status IN (SELECT value FROM json_each(?2)))
  AND (?3 IS NULL OR run.changed_at >= ?3)
ORDER BY run.number DESC LIMIT ?4;

-- cells --
-- The record of a run, field by field.
SELECT field, item, seq, path, origin FROM cell WHERE run = ?1 ORDER BY field, item;

-- cell_values --
-- The bodies that the cells of a run point at.
SELECT seq, CAST(body AS BLOB) FROM event WHERE run = ?1 AND seq IN (SELECT seq FROM cell WHERE run = ?1);

-- events --
-- A stretch of a run's log.
SELECT seq, CAST(body AS BLOB), hash FROM event WHERE run = ?1 AND seq >= ?2 AND seq <= ?3 ORDER BY seq;

-- open_waits --
-- What a run waits for.
SELECT {wait} FROM wait INDEXED BY wait_open WHERE wait.run = ?1 AND wait.closed = '' ORDER BY wait.number;

-- unread --
-- What lies in a run's inbox, oldest first.
SELECT id, kind, CAST(body AS BLOB), left_at FROM inbox WHERE run = ?1 AND taken IS NULL ORDER BY number;

-- waits_for_others --
-- Every open wait for a person or system, oldest first, with its run.
SELECT {wait}, {run} JOIN wait ON wait.run = run.number
WHERE wait.closed = '' AND wait.kind IN ('person', 'signal')
  AND run.status NOT IN ('completed', 'failed', 'cancelled')
ORDER BY wait.opened_at, wait.rowid;

-- workers --
-- Everyone who joined and hasn't left.
SELECT number, name, host, pid, beat, joined_at, beat_at, machines FROM worker ORDER BY number;

-- stray_events --
-- The logs of runs that can't be found: their row is gone, or its account.
SELECT run, min(seq) FROM event
WHERE run NOT IN (SELECT run.number FROM run JOIN account ON account.number = run.account)
GROUP BY run ORDER BY run;

-- payload --
-- A large value by its SHA-256.
SELECT body FROM payload WHERE digest = ?1;

-- last_event --
-- How far the log of the whole store goes.
SELECT coalesce(max(number), 0) FROM event;

-- event_time --
-- When an event happened: for finding the first one of a stretch of time by halving.
SELECT body ->> 'at' FROM event WHERE number >= ?1 ORDER BY number LIMIT 1;

-- spent_from --
-- Money recorded by the events from here on.
SELECT coalesce(sum(body ->> 'nanousd'), 0) FROM event WHERE number >= ?1 AND body ->> 'at' >= ?2;

-- parked_runs --
-- How many runs wait to be released after a restore.
SELECT count(*) FROM run WHERE status = 'paused' AND reason = ?1;

-- held_runs --
-- How many runs a worker holds.
SELECT count(*) FROM run WHERE worker = ?1;

-- migrations --
-- Which schema files were applied.
SELECT number, checksum FROM migration ORDER BY number;

-- note_migration --
-- A schema file was applied.
INSERT INTO migration (number, name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4);

-- name_store --
-- A new store gets its name.
INSERT INTO store (one, id, created_at) VALUES (1, ?1, ?2);

-- breaker --
-- One breaker as it stands.
SELECT {breaker} FROM breaker WHERE name = ?1;

-- breakers --
-- Every breaker that there ever was something to say of.
SELECT {breaker} FROM breaker ORDER BY name;

-- shut_breakers --
-- Those that no call passes, or one.
SELECT {breaker} FROM breaker WHERE state <> 'closed';

-- troubled_breakers --
-- Those of which a worker has to know.
SELECT {breaker} FROM breaker WHERE state <> 'closed' OR failures <> '[]' ORDER BY name;

-- keep_breaker --
-- A breaker after a change.  closed, open, half_open -> closed, open, half_open
INSERT INTO breaker (name, state, failures, window_at, window_calls, window_failed, changed_at, until, probe, sent,
                     reason, by)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
ON CONFLICT (name) DO UPDATE SET state = ?2, failures = ?3, window_at = ?4, window_calls = ?5, window_failed = ?6,
                                 changed_at = ?7, until = ?8, probe = ?9, sent = ?10, reason = ?11, by = ?12;

-- append_breaker_event --
-- One more line in the breakers' log.
INSERT INTO breaker_event (what, name, state, at, until, probe, reason, by) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8);

-- breaker_log --
-- What happened to one breaker, or to all.
SELECT what, name, state, at, until, probe, reason, by FROM breaker_event WHERE ?1 IS NULL OR name = ?1 ORDER BY number;

-- put_call --
-- A call as it now is. What was reserved for it lasts until the intent says anew how long.  (new), any -> its status
INSERT INTO call (run, effect, status, tool, way, attempt, seq, until, due, failed, limited, redoes, fence)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
ON CONFLICT (run, effect) DO UPDATE SET
    status = ?3, tool = ?4, way = ?5, attempt = ?6, seq = ?7, until = ?8, due = ?9, failed = ?10, redoes = ?12, fence = ?13,
    limited = max(?11, CASE ?3 WHEN 'under way' THEN 0 ELSE reserved > 0 END),
    reserved = CASE ?3 WHEN 'under way' THEN 0 ELSE reserved END, asked = '';

-- drop_call --
-- A call is done with.  any -> (gone)
DELETE FROM call WHERE run = ?1 AND effect = ?2;

-- forget_reserved --
-- Places of a tool that were taken for attempts that never began, and are over.  reserved -> (gone)
DELETE FROM call WHERE tool = ?1 AND limited = 1 AND status = 'reserved' AND reserved <= ?2;

-- calls_under_way --
-- The other calls of a tool that may be on their way, and when the first of them surely isn't any more.
SELECT count(*), min(max(until, reserved)) FROM call
WHERE tool = ?1 AND limited = 1 AND max(until, reserved) > ?2 AND NOT (run = ?3 AND effect = ?4);

-- forget_starts --
-- What began too long ago to count against a rate.
DELETE FROM call_start WHERE tool = ?1 AND at <= ?2;

-- starts_that_count --
-- When the last calls began that count against a rate, newest first.
SELECT at FROM call_start WHERE tool = ?1 AND at > ?2 ORDER BY at DESC LIMIT ?3;

-- pace --
-- When the first and the last of a tool's latest calls were let begin, and how many they are.
SELECT min(at), max(at), count(*) FROM (SELECT at FROM call_start WHERE tool = ?1 AND at > ?2 ORDER BY at DESC LIMIT 8);

-- ahead_in_line --
-- How many came before this one, and how many of them are about to ask, as their time has come.
SELECT count(*), count(*) FILTER (WHERE at BETWEEN ?4 AND ?3) FROM call_line
WHERE tool = ?1 AND until > ?3
  AND number < COALESCE((SELECT number FROM call_line WHERE run = ?2 AND tool = ?1), 9223372036854775807);

-- stand_in_line --
-- Who was refused a place keeps the one it has in the line.  (new) -> in line
INSERT INTO call_line (tool, run, at, until) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (run, tool) DO UPDATE SET at = ?3, until = ?4;

-- leave_line --
-- It has its place.  in line -> (gone)
DELETE FROM call_line WHERE run = ?1 AND tool = ?2;

-- leave_lines --
-- The run has ended.  in line -> (gone)
DELETE FROM call_line WHERE run = ?1;

-- forget_lines --
-- Who hasn't asked again in time.  in line -> (gone)
DELETE FROM call_line WHERE tool = ?1 AND until <= ?2;

-- wait_beside --
-- A turn that waits for a place isn't late: its deadline moves on.
UPDATE run SET deadline_at = ?2 WHERE number = ?1 AND deadline_at < ?2;

-- note_start --
-- A call of a tool with a rate was let begin.
INSERT INTO call_start (tool, at) VALUES (?1, ?2);

-- reserve_call --
-- A place for an attempt that is about to begin.  (new) -> reserved; what else is known of the call stays
INSERT INTO call (run, effect, status, tool, way, attempt, seq, limited, fence, reserved)
VALUES (?1, ?2, 'reserved', ?3, ?4, ?5, 0, 1, ?6, ?7)
ON CONFLICT (run, effect) DO UPDATE SET limited = 1, reserved = ?7;

-- call_to_see_to --
-- Has anybody said what becomes of this call?
SELECT asked FROM call WHERE run = ?1 AND effect = ?2 AND status = ?3;

-- see_to_call --
-- Who comes first says it.
UPDATE call SET asked = ?3 WHERE run = ?1 AND effect = ?2;

-- claimable_redone --
-- Ended runs, held by nobody, with a call done again that hasn't come to its end.
SELECT DISTINCT run.number FROM call INDEXED BY call_redone JOIN run ON run.number = call.run
WHERE call.redoes IS NOT NULL AND call.status IN ('under way', 'due')
  AND run.worker IS NULL AND run.status IN ('completed', 'failed', 'cancelled')
  AND machine || '/' || shape IN (SELECT value FROM json_each(?1))
ORDER BY run.number LIMIT ?2;

-- calls_of_run --
-- The queue of one run.
SELECT {call} FROM call WHERE run = ?1 ORDER BY effect;

-- dead_calls --
-- Every dead call, with its run.
SELECT {call}, {run} JOIN call INDEXED BY call_dead ON call.run = run.number
WHERE call.status = 'dead' ORDER BY call.run, call.effect;

-- calls --
-- Every call of some statuses, with its run.
SELECT {call}, {run} JOIN call ON call.run = run.number
WHERE call.status IN (SELECT value FROM json_each(?1)) ORDER BY call.run, call.effect;

-- put_notice --
-- Something to be said about a run.  (new) -> due
INSERT INTO notice (id, run, seq, body, due, made_at, changed_at) VALUES (?1, ?2, ?3, CAST(?4 AS TEXT), ?5, ?5, ?5);

-- take_notices --
-- Lease what is due, or was leased by somebody who never came back.  due, sending -> sending
UPDATE notice SET status = 'sending', attempts = attempts + 1, due = ?3, changed_at = ?1
WHERE number IN (SELECT number FROM notice INDEXED BY notice_due
                 WHERE status IN ('due', 'sending') AND due <= ?1 ORDER BY due LIMIT ?2)
RETURNING number, id, CAST(body AS BLOB), attempts;

-- settle_notice --
-- How attempt ?2 went, unless its lease ran out and somebody else has taken the row.  sending -> delivered, due, dead
UPDATE notice SET status = ?3, due = ?4, message = ?5, changed_at = ?6
WHERE number = ?1 AND status = 'sending' AND attempts = ?2;

-- decide_notice --
-- A person has it sent again, or not at all.  dead -> due; dead, due -> dropped
UPDATE notice SET status = ?2, attempts = 0, due = ?3, by = ?4, reason = ?5, changed_at = ?3
WHERE id = ?1 AND (status = 'dead' OR (status = 'due' AND ?2 = 'dropped'));

-- notice_status --
-- How a notice stands.
SELECT status FROM notice WHERE id = ?1;

-- next_notice --
-- When the next one is due.
SELECT min(due) FROM notice INDEXED BY notice_due WHERE status IN ('due', 'sending');

-- notices --
-- Notices that aren't done with, or all, oldest first; of one run, or of all.
SELECT notice.id, run.id, run.machine, notice.seq, CAST(body AS BLOB), notice.status, attempts, due, message, by,
       notice.reason, made_at, notice.changed_at
FROM notice JOIN run ON run.number = notice.run
WHERE (?1 OR notice.status IN ('due', 'sending', 'dead')) AND (?2 IS NULL OR notice.run = ?2)
ORDER BY notice.number;
