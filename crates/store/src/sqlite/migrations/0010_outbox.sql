-- Calls kept until they are made. AUTOINCREMENT: a number is never given twice, also after its row was removed.
CREATE TABLE palisade_outbox (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    state           INTEGER NOT NULL,
    connection      TEXT NOT NULL,
    tenant          TEXT NOT NULL,
    provider        TEXT NOT NULL,
    operation       TEXT NOT NULL,
    replay          TEXT NOT NULL,
    method          TEXT NOT NULL,
    target          TEXT NOT NULL,
    headers         TEXT NOT NULL,
    body            BLOB NOT NULL,
    credential      TEXT,
    lane            TEXT,
    idempotency_key TEXT NOT NULL,
    unique_key      TEXT,
    content         BLOB NOT NULL,
    priority        INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    run_at          INTEGER NOT NULL,
    next_at         INTEGER,
    attempts        INTEGER NOT NULL DEFAULT 0,
    sent_at         INTEGER,
    finished_at     INTEGER,
    error           TEXT,
    status          INTEGER,
    answer_headers  TEXT,
    answer          BLOB,
    answer_cut      INTEGER,
    request_id      TEXT
) STRICT;
CREATE UNIQUE INDEX palisade_outbox_unique ON palisade_outbox (connection, unique_key) WHERE unique_key IS NOT NULL;
CREATE INDEX palisade_outbox_state ON palisade_outbox (state, id);
CREATE INDEX palisade_outbox_finished ON palisade_outbox (finished_at, id) WHERE finished_at IS NOT NULL;

-- Calls by state, and those in review by connection: no number of the page is a scan.
CREATE TABLE palisade_outbox_count (
    state INTEGER PRIMARY KEY,
    calls INTEGER NOT NULL
) STRICT;
CREATE TABLE palisade_outbox_review (
    connection TEXT PRIMARY KEY NOT NULL,
    calls      INTEGER NOT NULL
) STRICT;
