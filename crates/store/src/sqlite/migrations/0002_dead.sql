-- Dead events by connection, so that the page's number is no scan; and the job each event died with, so that it stops
-- counting as dead when the event is replayed. Neither is written while events are handled well.
CREATE TABLE palisade_dead_count (
    connection TEXT PRIMARY KEY NOT NULL,
    events     INTEGER NOT NULL
) STRICT;
INSERT INTO palisade_dead_count SELECT connection, count(*) FROM palisade_event WHERE state = 3 GROUP BY connection;

CREATE TABLE palisade_dead_letter (
    event INTEGER PRIMARY KEY,
    job   INTEGER NOT NULL
) STRICT;
INSERT INTO palisade_dead_letter SELECT event, max(id) FROM palisade_job
    WHERE state = 3 AND event IN (SELECT id FROM palisade_event WHERE state = 3) GROUP BY event;

-- Jobs of events that were replayed before this migration.
UPDATE palisade_job SET state = 2
    WHERE state = 3 AND event IS NOT NULL AND id NOT IN (SELECT job FROM palisade_dead_letter);
UPDATE palisade_tally SET jobs_dead = (SELECT count(*) FROM palisade_job WHERE state = 3);
