-- How events of one type come to an endpoint: when one last came by webhook, and what the provider's own list has shown
-- since that did not. A row is written once a minute at most while webhooks come.
CREATE TABLE palisade_heard (
    endpoint   TEXT NOT NULL,
    kind       TEXT NOT NULL,
    heard_at   INTEGER,
    found      INTEGER NOT NULL DEFAULT 0,
    found_from INTEGER,
    found_to   INTEGER,
    PRIMARY KEY (endpoint, kind)
) STRICT, WITHOUT ROWID;
