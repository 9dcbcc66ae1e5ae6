-- When records were last seen again with the content that is stored, for 128 row ids at a time (block = id / 128): their
-- rows are not written for it. What is noted counts where it is newer than the row. See seen.rs for the form.
CREATE TABLE palisade_seen (
    stream INTEGER NOT NULL,
    block  INTEGER NOT NULL,
    notes  BLOB NOT NULL,
    PRIMARY KEY (stream, block)
) STRICT, WITHOUT ROWID;
