-- Since when somebody has paused a destination: what is to be sent to it waits.
ALTER TABLE palisade_destination ADD COLUMN paused_at INTEGER;
