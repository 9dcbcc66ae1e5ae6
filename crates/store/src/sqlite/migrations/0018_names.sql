-- Which row a record or an event has, by the name its provider gave it. A name is entered in the table of new ones and
-- moved to the large table in lots of neighbours; it stands in one of the two. As an index of the rows, names in no order
-- took a page of their own of every commit for nearly every row. See names.rs.
CREATE TABLE palisade_record_name (
    stream INTEGER NOT NULL,
    ext_id TEXT NOT NULL,
    id     INTEGER NOT NULL,
    PRIMARY KEY (stream, ext_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE palisade_record_new (
    stream INTEGER NOT NULL,
    ext_id TEXT NOT NULL,
    id     INTEGER NOT NULL,
    PRIMARY KEY (stream, ext_id)
) STRICT, WITHOUT ROWID;
INSERT INTO palisade_record_name SELECT stream, ext_id, id FROM palisade_record ORDER BY stream, ext_id;
DROP INDEX palisade_record_key;

-- Of an event the name is a hash of its endpoint and id: the rows it names are looked at. Those of before are entered by
-- the program, which can work it out.
CREATE TABLE palisade_event_name (
    name INTEGER NOT NULL,
    id   INTEGER NOT NULL,
    PRIMARY KEY (name, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE palisade_event_new (
    name INTEGER NOT NULL,
    id   INTEGER NOT NULL,
    PRIMARY KEY (name, id)
) STRICT, WITHOUT ROWID;
DROP INDEX palisade_event_key;

-- Which job of a lane runs is found among those that run.
DROP INDEX palisade_job_lane_held;
