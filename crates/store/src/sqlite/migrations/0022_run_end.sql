-- How far the end of a full run has come with deleting what it did not see: the last name it looked at, empty before the
-- first; NULL until its deletions were found lawful.
ALTER TABLE palisade_run ADD COLUMN swept TEXT;

-- How many records were set aside and dropped for newer ones; those met longest ago go first, of a stream and of all.
ALTER TABLE palisade_stream ADD COLUMN bad_older INTEGER NOT NULL DEFAULT 0;
CREATE INDEX palisade_bad_record_met ON palisade_bad_record (stream, last_seen, key);
CREATE INDEX palisade_bad_record_old ON palisade_bad_record (last_seen);
