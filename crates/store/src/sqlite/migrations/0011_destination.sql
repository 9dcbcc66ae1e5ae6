-- Where events are forwarded to, how each destination fares, and its sealed signing keys.
CREATE TABLE palisade_destination (
    name          TEXT PRIMARY KEY,
    configured    INTEGER NOT NULL,
    revision      INTEGER NOT NULL,
    spec          TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    failures      INTEGER NOT NULL DEFAULT 0,
    failing_since INTEGER,
    failed_at     INTEGER,
    reason        TEXT,
    delivered_at  INTEGER,
    disabled      TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE palisade_destination_key (
    destination TEXT NOT NULL REFERENCES palisade_destination (name) ON DELETE CASCADE,
    version     INTEGER NOT NULL,
    blob        BLOB NOT NULL,
    until       INTEGER,
    PRIMARY KEY (destination, version)
) STRICT, WITHOUT ROWID;
