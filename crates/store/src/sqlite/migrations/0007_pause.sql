-- Until when a lane must be left alone, so that a process that starts later does not call before its provider allows.
CREATE TABLE palisade_pause (
    provider TEXT NOT NULL,
    lane     TEXT NOT NULL,
    at       INTEGER NOT NULL,
    until    INTEGER NOT NULL,
    PRIMARY KEY (provider, lane)
) STRICT, WITHOUT ROWID;
CREATE INDEX palisade_pause_until ON palisade_pause (until);
