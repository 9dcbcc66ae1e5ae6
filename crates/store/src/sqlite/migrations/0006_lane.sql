-- Unfinished jobs by lane, but for the newest: of the jobs after `lane_to` the writer keeps the lanes in mind, and most
-- are finished before they would be entered here. As an index of the jobs it took a page of its own of every commit for
-- nearly every job.
CREATE TABLE palisade_lane (
    lane TEXT NOT NULL,
    job  INTEGER NOT NULL,
    PRIMARY KEY (lane, job)
) STRICT, WITHOUT ROWID;
INSERT INTO palisade_lane SELECT lane, id FROM palisade_job
    WHERE lane IS NOT NULL AND finished_at IS NULL ORDER BY lane, id;
DROP INDEX palisade_job_lane;

-- Up to which job unfinished ones are entered, and how many are.
ALTER TABLE palisade_tally ADD COLUMN lane_to INTEGER NOT NULL DEFAULT 0;
ALTER TABLE palisade_tally ADD COLUMN lane_jobs INTEGER NOT NULL DEFAULT 0;
UPDATE palisade_tally SET lane_to = job_last, lane_jobs = (SELECT count(*) FROM palisade_lane);
