-- The greatest number of a tombstone that was removed from the feed: a reader who began before it and stands below it may
-- have missed a deletion, and is told so.
ALTER TABLE palisade_stream ADD COLUMN horizon INTEGER NOT NULL DEFAULT 0;
-- Tombstones by age, so that old ones are found without looking at what is younger. Live records are not in it.
CREATE INDEX palisade_record_gone ON palisade_record (changed_at, stream, seq) WHERE deleted = 1;
