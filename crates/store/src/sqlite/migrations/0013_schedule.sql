-- Schedules set for the runs of one stream, as text. A stream has few, most have none: the settings' count.
CREATE TABLE palisade_schedule (
    connection TEXT NOT NULL,
    stream     TEXT NOT NULL,
    mode       INTEGER NOT NULL,
    schedule   TEXT NOT NULL,
    PRIMARY KEY (connection, stream, mode)
) STRICT, WITHOUT ROWID;

-- Calls of days whose hours are no longer told apart, so that their counts do not grow by 24 rows a day for ever.
CREATE TABLE palisade_call_day (
    connection TEXT NOT NULL,
    day        INTEGER NOT NULL,
    calls      INTEGER NOT NULL,
    errors     INTEGER NOT NULL,
    PRIMARY KEY (connection, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX palisade_call_day_day ON palisade_call_day (day);
CREATE INDEX palisade_call_hour_hour ON palisade_call_hour (hour);

-- How each chore ended last.
CREATE TABLE palisade_chore (
    name     TEXT PRIMARY KEY NOT NULL,
    ended_at INTEGER NOT NULL,
    took_ms  INTEGER NOT NULL,
    outcome  TEXT NOT NULL,
    failed   INTEGER NOT NULL
) STRICT;
