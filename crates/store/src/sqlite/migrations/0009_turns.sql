-- Fair turns. `grp` is the group whose jobs share a cap, `tenant` whose turn it takes, `turn` the place in line. Only
-- those that are due stand in line (state 0); 5 waits for its moment, 6 for its connection (`parked`) to be resumed.
ALTER TABLE palisade_job ADD COLUMN grp TEXT NOT NULL DEFAULT '';
ALTER TABLE palisade_job ADD COLUMN tenant TEXT NOT NULL DEFAULT '';
ALTER TABLE palisade_job ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
ALTER TABLE palisade_job ADD COLUMN parked TEXT;
DROP INDEX palisade_job_ready;
CREATE INDEX palisade_job_turn ON palisade_job (queue, priority, grp, turn, id) WHERE state = 0;
CREATE INDEX palisade_job_later ON palisade_job (queue, run_at, id) WHERE state = 5;
CREATE INDEX palisade_job_parked ON palisade_job (parked, id) WHERE state = 6;

-- Claims let what waited into line.
UPDATE palisade_job SET state = 5 WHERE state = 0;
UPDATE palisade_job SET
    grp = coalesce((SELECT provider FROM palisade_event e WHERE e.id = palisade_job.event), ''),
    tenant = coalesce((SELECT connection FROM palisade_event e WHERE e.id = palisade_job.event), '')
WHERE finished_at IS NULL AND event IS NOT NULL;
UPDATE palisade_job SET
    grp = coalesce((SELECT provider FROM palisade_connection c
                    WHERE c.id = json_extract(palisade_job.work, '$.key.connection')), ''),
    tenant = coalesce((SELECT tenant FROM palisade_connection c
                       WHERE c.id = json_extract(palisade_job.work, '$.key.connection')), '')
WHERE finished_at IS NULL AND event IS NULL;

-- The highest turn claimed of a queue and priority.
CREATE TABLE palisade_turn (
    queue    INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    turn     INTEGER NOT NULL,
    PRIMARY KEY (queue, priority)
) STRICT, WITHOUT ROWID;

-- Whose events are kept and not handled: 0 everybody's, 1 a provider's, 2 a connection's.
CREATE TABLE palisade_halt (
    scope INTEGER NOT NULL,
    name  TEXT NOT NULL,
    at    INTEGER NOT NULL,
    PRIMARY KEY (scope, name)
) STRICT, WITHOUT ROWID;

-- Dead events by cause.
CREATE TABLE palisade_dead_cause (
    provider TEXT NOT NULL,
    kind     TEXT NOT NULL,
    reason   TEXT NOT NULL,
    events   INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at  INTEGER NOT NULL,
    PRIMARY KEY (provider, kind, reason)
) STRICT, WITHOUT ROWID;
INSERT INTO palisade_dead_cause
    SELECT provider, kind, coalesce(reason, ''), count(*), min(received_at), max(received_at)
    FROM palisade_event WHERE state = 3 GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT 500;
INSERT INTO palisade_dead_cause
    SELECT '', '', 'other causes', n, at, at FROM (
        SELECT (SELECT count(*) FROM palisade_event WHERE state = 3)
             - (SELECT coalesce(sum(events), 0) FROM palisade_dead_cause) AS n,
               (SELECT max(received_at) FROM palisade_event WHERE state = 3) AS at)
    WHERE n > 0;

-- What the inbox keeps, in bytes.
ALTER TABLE palisade_tally ADD COLUMN inbox_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE palisade_tally SET inbox_bytes =
    (SELECT coalesce(sum(768 + coalesce(length(payload), 0) + coalesce(octet_length(headers), 0)), 0)
     FROM palisade_event)
  + (SELECT coalesce(sum(length(body) + coalesce(octet_length(headers), 0)), 0) FROM palisade_delivery);
