-- An event that goes before its name does keeps its row, in a state of its own, with nothing but the name in it.
CREATE INDEX palisade_event_named ON palisade_event (received_at, id) WHERE state = 4;
