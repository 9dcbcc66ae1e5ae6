-- How often a job came again without being tried, and since when: bounded in number and in time. Of those that are there
-- every claim that was no attempt counts, as it did.
ALTER TABLE palisade_job ADD COLUMN waits INTEGER NOT NULL DEFAULT 0;
ALTER TABLE palisade_job ADD COLUMN waits_from INTEGER;
UPDATE palisade_job SET waits = fence - attempt WHERE finished_at IS NULL AND fence > attempt;

-- Runs under way by when they last came on: those that stand still for longest are found without looking at the others.
CREATE INDEX palisade_run_moved ON palisade_run (progressed_at, id) WHERE finished_at IS NULL;
-- Those that wait for a review, however many others there are.
CREATE INDEX palisade_run_review ON palisade_run (id) WHERE state GLOB '{"state":"review"*';
