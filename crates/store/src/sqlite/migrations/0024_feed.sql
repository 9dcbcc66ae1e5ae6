-- Which record stands at which number of its stream's feed. A stream's newest entries stand in its own row, which every
-- commit writes anyway, and are moved here together; as an index of the records each change wrote two pages more, the one
-- where the record had stood and the last one. See entries.rs for the form.
CREATE TABLE palisade_feed (
    stream INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    id     INTEGER NOT NULL,
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO palisade_feed SELECT stream, seq, id FROM palisade_record INDEXED BY palisade_record_seq ORDER BY stream, seq;
DROP INDEX palisade_record_seq;
ALTER TABLE palisade_stream ADD COLUMN feed_new BLOB;
