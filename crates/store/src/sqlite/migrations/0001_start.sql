-- The tables of the hub. Every name carries the prefix `palisade_`, because a product keeps its own tables in the
-- same file. Times are milliseconds since 1970; enumerations are numbers named in schema.rs; u64 values are stored
-- as the i64 of the same bits.

-- Counters and the newest ids, so that no count is a table scan and no id is ever given twice.
CREATE TABLE palisade_tally (
    id             INTEGER PRIMARY KEY CHECK (id = 1),
    event_last     INTEGER NOT NULL DEFAULT 0,
    job_last       INTEGER NOT NULL DEFAULT 0,
    events_pending INTEGER NOT NULL DEFAULT 0,
    events_done    INTEGER NOT NULL DEFAULT 0,
    events_ignored INTEGER NOT NULL DEFAULT 0,
    events_dead    INTEGER NOT NULL DEFAULT 0,
    jobs_waiting   INTEGER NOT NULL DEFAULT 0,
    jobs_running   INTEGER NOT NULL DEFAULT 0,
    jobs_dead      INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO palisade_tally (id) VALUES (1);

-- The body and headers of a delivery that holds several events. A delivery that is one event is kept in its event.
CREATE TABLE palisade_delivery (
    id      INTEGER PRIMARY KEY,
    headers TEXT,
    body    BLOB NOT NULL
) STRICT;

CREATE TABLE palisade_event (
    id           INTEGER PRIMARY KEY,
    state        INTEGER NOT NULL,
    received_at  INTEGER NOT NULL,
    created      INTEGER,
    delivery     INTEGER,
    endpoint     TEXT NOT NULL,
    event_id     TEXT NOT NULL,
    connection   TEXT NOT NULL,
    provider     TEXT NOT NULL,
    kind         TEXT NOT NULL,
    account      TEXT,
    ordering_key TEXT,
    reason       TEXT,
    headers      TEXT,
    payload      BLOB
) STRICT;
CREATE UNIQUE INDEX palisade_event_key ON palisade_event (endpoint, event_id);
CREATE INDEX palisade_event_delivery ON palisade_event (delivery) WHERE delivery IS NOT NULL;
-- There is none for pending events: every delivery would pay for it. They are found by their jobs.
CREATE INDEX palisade_event_ignored ON palisade_event (id) WHERE state = 2;
CREATE INDEX palisade_event_dead ON palisade_event (id) WHERE state = 3;
CREATE INDEX palisade_event_settled ON palisade_event (received_at, id) WHERE state IN (1, 2);

-- All work. `event` is set for the work of an event, `work` (JSON) for any other.
CREATE TABLE palisade_job (
    id           INTEGER PRIMARY KEY,
    state        INTEGER NOT NULL,
    queue        INTEGER NOT NULL,
    priority     INTEGER NOT NULL,
    run_at       INTEGER NOT NULL,
    attempt      INTEGER NOT NULL DEFAULT 0,
    attempts_max INTEGER NOT NULL,
    fence        INTEGER NOT NULL DEFAULT 0,
    lease_until  INTEGER,
    finished_at  INTEGER,
    event        INTEGER,
    lane         TEXT,
    unique_key   TEXT,
    work         TEXT,
    reason       TEXT
) STRICT;
CREATE INDEX palisade_job_ready ON palisade_job (queue, priority DESC, run_at, id) WHERE state = 0;
CREATE INDEX palisade_job_leased ON palisade_job (queue, lease_until) WHERE state = 1;
CREATE INDEX palisade_job_lane ON palisade_job (lane, id) WHERE lane IS NOT NULL AND finished_at IS NULL;
CREATE INDEX palisade_job_lane_held ON palisade_job (lane) WHERE lane IS NOT NULL AND state = 1;
CREATE INDEX palisade_job_behind ON palisade_job (lane, run_at) WHERE state = 4;
CREATE UNIQUE INDEX palisade_job_unique ON palisade_job (unique_key)
    WHERE unique_key IS NOT NULL AND finished_at IS NULL;
CREATE INDEX palisade_job_finished ON palisade_job (finished_at, id) WHERE finished_at IS NOT NULL;

CREATE TABLE palisade_stream (
    id         INTEGER PRIMARY KEY,
    connection TEXT NOT NULL,
    name       TEXT NOT NULL,
    commits    INTEGER NOT NULL DEFAULT 0,
    head       INTEGER NOT NULL DEFAULT 0,
    records    INTEGER NOT NULL DEFAULT 0,
    full_at    INTEGER,
    fresh_at   INTEGER,
    cursor     TEXT,
    UNIQUE (connection, name)
) STRICT;

-- `began` is the stream's commit counter when the run was first started.
CREATE TABLE palisade_run (
    id            INTEGER PRIMARY KEY,
    stream        INTEGER NOT NULL,
    connection    TEXT NOT NULL,
    name          TEXT NOT NULL,
    mode          INTEGER NOT NULL,
    state         TEXT NOT NULL,
    cursor        TEXT,
    pages         INTEGER NOT NULL DEFAULT 0,
    added         INTEGER NOT NULL DEFAULT 0,
    updated       INTEGER NOT NULL DEFAULT 0,
    deleted       INTEGER NOT NULL DEFAULT 0,
    unchanged     INTEGER NOT NULL DEFAULT 0,
    older         INTEGER NOT NULL DEFAULT 0,
    resumed       INTEGER NOT NULL DEFAULT 0,
    started_at    INTEGER NOT NULL,
    progressed_at INTEGER NOT NULL,
    finished_at   INTEGER,
    began         INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX palisade_run_live ON palisade_run (stream) WHERE finished_at IS NULL;
CREATE INDEX palisade_run_connection ON palisade_run (connection, id);

-- `observed` and the span are what the merge rule needs; `revised` tells a changed record from an added one.
-- Not WITHOUT ROWID: that form was measured 5.6 times slower for rows of this size.
CREATE TABLE palisade_record (
    id         INTEGER PRIMARY KEY,
    stream     INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    observed   INTEGER NOT NULL,
    earliest   INTEGER NOT NULL,
    latest     INTEGER NOT NULL,
    hash       INTEGER NOT NULL,
    deleted    INTEGER NOT NULL,
    revised    INTEGER NOT NULL,
    first_seen INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    ext_id     TEXT NOT NULL,
    data       BLOB
) STRICT;
CREATE UNIQUE INDEX palisade_record_key ON palisade_record (stream, ext_id);
CREATE UNIQUE INDEX palisade_record_seq ON palisade_record (stream, seq);

CREATE TABLE palisade_connection (
    id         TEXT PRIMARY KEY NOT NULL,
    tenant     TEXT NOT NULL,
    provider   TEXT NOT NULL,
    account    TEXT,
    base_url   TEXT,
    state      TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Sealed by the vault before it comes here.
CREATE TABLE palisade_credential (
    connection TEXT PRIMARY KEY NOT NULL,
    generation INTEGER NOT NULL,
    blob       BLOB NOT NULL
) STRICT;

-- Wrapped by the master key before it comes here.
CREATE TABLE palisade_data_key (
    tenant  TEXT NOT NULL,
    id      INTEGER NOT NULL,
    master  TEXT NOT NULL,
    wrapped BLOB NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT;

CREATE TABLE palisade_call (
    id             INTEGER PRIMARY KEY,
    at             INTEGER NOT NULL,
    provider       TEXT NOT NULL,
    operation      TEXT NOT NULL,
    connection     TEXT NOT NULL,
    status         INTEGER,
    error          TEXT,
    outcome        TEXT,
    attempts       INTEGER NOT NULL,
    duration_us    INTEGER NOT NULL,
    waited_us      INTEGER NOT NULL,
    request_id     TEXT,
    correlation_id TEXT
) STRICT;
CREATE INDEX palisade_call_connection ON palisade_call (connection, id);
CREATE INDEX palisade_call_at ON palisade_call (at, id);

-- One row per connection and hour with calls.
CREATE TABLE palisade_call_hour (
    connection TEXT NOT NULL,
    hour       INTEGER NOT NULL,
    calls      INTEGER NOT NULL,
    errors     INTEGER NOT NULL,
    PRIMARY KEY (connection, hour)
) STRICT, WITHOUT ROWID;

-- Written and emptied again to learn whether the store takes writes: the bytes prove that there is room for some.
CREATE TABLE palisade_probe (
    at   INTEGER NOT NULL,
    room BLOB NOT NULL
) STRICT;
