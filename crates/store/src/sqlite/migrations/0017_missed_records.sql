-- How many of what a run found missing are records no event tells of. Until now a run that wrote records counted records,
-- and a walk over a list of events, which writes none by itself, events.
ALTER TABLE palisade_run ADD COLUMN missed_records INTEGER NOT NULL DEFAULT 0;
UPDATE palisade_run SET missed_records = missed WHERE missed > 0 AND added + updated > 0;
