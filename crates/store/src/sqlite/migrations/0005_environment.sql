-- The environment a connection belongs to. That of an older one stands in the name of its grants' flow
-- (`slack/sandbox`); one without says nothing, and is production.
ALTER TABLE palisade_connection ADD COLUMN environment TEXT NOT NULL DEFAULT 'production';
UPDATE palisade_connection SET environment =
    (SELECT substr(flow, instr(flow, '/') + 1) FROM palisade_grant
     WHERE connection = palisade_connection.id AND instr(flow, '/') > 0 ORDER BY name LIMIT 1)
WHERE EXISTS (SELECT 1 FROM palisade_grant WHERE connection = palisade_connection.id AND instr(flow, '/') > 0);

-- What tells a key from another one after it was erased: a digest, sealed as the key is.
ALTER TABLE palisade_credential ADD COLUMN mark BLOB NOT NULL DEFAULT x'';
