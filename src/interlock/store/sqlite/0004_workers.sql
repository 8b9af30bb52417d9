-- What each worker can take: a JSON list of "machine/shape". A run whose pair no living worker has is stranded: nobody
-- will claim it, however long it lies. A worker that was told to advance one run only lists nothing.
ALTER TABLE worker ADD COLUMN machines TEXT NOT NULL DEFAULT '[]';
