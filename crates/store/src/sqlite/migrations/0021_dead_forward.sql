-- Events that were given up for a destination, so that they are found and counted without a look at jobs.
CREATE TABLE palisade_dead_forward (
    destination TEXT NOT NULL,
    event       INTEGER NOT NULL,
    job         INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    PRIMARY KEY (destination, event)
) STRICT, WITHOUT ROWID;
CREATE INDEX palisade_dead_forward_event ON palisade_dead_forward (event);
INSERT OR REPLACE INTO palisade_dead_forward
    SELECT work ->> '$.destination', work ->> '$.row', id, finished_at, coalesce(reason, '') FROM palisade_job
    WHERE state = 3 AND queue = 3 AND json_valid(work)
        AND EXISTS (SELECT 1 FROM palisade_event e WHERE e.id = work ->> '$.row' AND e.state <> 4) ORDER BY id;
