-- Why a run waits or ended (JSON), what it could not read, how much there is, which numbers of the feed are its own, and
-- the events of the provider's list it found missing.
ALTER TABLE palisade_run ADD COLUMN stop TEXT;
ALTER TABLE palisade_run ADD COLUMN bad INTEGER NOT NULL DEFAULT 0;
ALTER TABLE palisade_run ADD COLUMN total INTEGER;
ALTER TABLE palisade_run ADD COLUMN feed_from INTEGER;
ALTER TABLE palisade_run ADD COLUMN feed_to INTEGER;
ALTER TABLE palisade_run ADD COLUMN missed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE palisade_run ADD COLUMN missed_from INTEGER;
ALTER TABLE palisade_run ADD COLUMN missed_to INTEGER;
CREATE INDEX palisade_run_missed ON palisade_run (connection, id) WHERE missed > 0;

-- `followed`: a newer run of the same stream and mode exists, so this one may go when it is old.
ALTER TABLE palisade_run ADD COLUMN followed INTEGER NOT NULL DEFAULT 0;
UPDATE palisade_run SET followed = 1 WHERE id NOT IN (SELECT max(id) FROM palisade_run GROUP BY stream, mode);
CREATE INDEX palisade_run_newest ON palisade_run (stream, mode) WHERE followed = 0;
CREATE INDEX palisade_run_followed ON palisade_run (finished_at, id) WHERE followed = 1;

ALTER TABLE palisade_stream ADD COLUMN bad INTEGER NOT NULL DEFAULT 0;
ALTER TABLE palisade_stream ADD COLUMN paused_at INTEGER;

-- Records that could not be read. `key` is `=` and the id, or `#` and the hash of what came.
CREATE TABLE palisade_bad_record (
    id         INTEGER PRIMARY KEY,
    stream     INTEGER NOT NULL,
    run        INTEGER NOT NULL,
    times      INTEGER NOT NULL,
    first_seen INTEGER NOT NULL,
    last_seen  INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    key        TEXT NOT NULL,
    ext_id     TEXT,
    why        TEXT NOT NULL,
    raw        BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX palisade_bad_record_key ON palisade_bad_record (stream, key);
