-- Runs under way by when they last came on, to ten seconds: with the exact moment an entry of the index, and with it a page
-- of the file, was written anew for every page of a sync.
ALTER TABLE palisade_run ADD COLUMN moved_at INTEGER NOT NULL DEFAULT 0;
UPDATE palisade_run SET moved_at = progressed_at WHERE finished_at IS NULL;
DROP INDEX palisade_run_moved;
CREATE INDEX palisade_run_moved ON palisade_run (moved_at, id) WHERE finished_at IS NULL;
