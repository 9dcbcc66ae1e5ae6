-- Grants, authorisations under way, and the register of master keys.

-- Tokens come sealed. `state` is JSON; `live` and `over` repeat what of it is searched by.
CREATE TABLE palisade_grant (
    connection    TEXT NOT NULL,
    name          TEXT NOT NULL,
    flow          TEXT NOT NULL,
    generation    INTEGER NOT NULL,
    blob          BLOB NOT NULL,
    state         TEXT NOT NULL,
    live          INTEGER NOT NULL,
    over          INTEGER NOT NULL,
    issued_at     INTEGER NOT NULL,
    expires_at    INTEGER,
    keep_alive_at INTEGER,
    requested     TEXT NOT NULL,
    granted       TEXT NOT NULL,
    held_until    INTEGER,
    fence         INTEGER NOT NULL DEFAULT 0,
    intent        INTEGER,
    rest_until    INTEGER,
    failures      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (connection, name)
) STRICT;
CREATE INDEX palisade_grant_due ON palisade_grant (keep_alive_at, connection, name)
    WHERE live = 1 AND keep_alive_at IS NOT NULL;

-- Both hold the SHA-256 of a random token and never the token.
CREATE TABLE palisade_pending (
    state      BLOB PRIMARY KEY NOT NULL,
    browser    BLOB NOT NULL,
    tenant     TEXT NOT NULL,
    connection TEXT NOT NULL,
    blob       BLOB NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX palisade_pending_expiry ON palisade_pending (expires_at, state);

CREATE TABLE palisade_session (
    token      BLOB PRIMARY KEY NOT NULL,
    tenant     TEXT NOT NULL,
    flow       TEXT NOT NULL,
    connection TEXT,
    scopes     TEXT,
    return_to  TEXT,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX palisade_session_expiry ON palisade_session (expires_at, token);

-- 0 active, 1 old, 2 retired.
CREATE TABLE palisade_master_key (
    id    TEXT PRIMARY KEY NOT NULL,
    state INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX palisade_master_key_active ON palisade_master_key (state) WHERE state = 0;

-- Seals set aside under the data key, by all processes together.
ALTER TABLE palisade_data_key ADD COLUMN seals INTEGER NOT NULL DEFAULT 0;
CREATE INDEX palisade_data_key_master ON palisade_data_key (master, tenant, id);
