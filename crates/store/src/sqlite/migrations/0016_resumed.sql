-- 3 in `palisade_halt` is a connection that was resumed and whose parked jobs claims have still to let into line. They
-- are found by these rows, so that a claim looks at none of the connections that are halted.
INSERT INTO palisade_halt
    SELECT DISTINCT 3, parked, 0 FROM palisade_job
    WHERE state = 6 AND parked NOT IN (SELECT name FROM palisade_halt WHERE scope = 2);
