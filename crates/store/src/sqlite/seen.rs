//! When records were last confirmed: seen again with the content that is stored.
//!
//! A confirmation moves a record's counter and span forward and changes nothing else, and most of what a sync reads is
//! one. Written into the record's row it costs what a change costs, content and all. So it is noted beside the rows: the
//! records of a page mostly lie side by side in the file and are confirmed with one counter and one span, so the notes of
//! [`BLOCK`] row ids are a few [`Stretch`]es in one narrow row, and a page of a hundred writes one or two of those. Where
//! the records of a page lie apart there are more of them, each as narrow.
//!
//! A note counts only while it is newer than its row: a write takes what was noted into the row, and leaves the note. So
//! does a row id that is given to another record of the stream, since the counter of a stream only grows.

use std::collections::{BTreeMap, HashMap};

use palisade_core::sync::Span;
use palisade_core::sync::merge::Stored;
use rusqlite::{Connection, OptionalExtension, params};

use super::error::{Fault, unreadable};
use super::writer::Tx;

/// Row ids noted in one row of the table: a page of records is in one or two, and a row with a note of its own for each
/// stays within a page of the file.
const BLOCK: i64 = 128;

/// The bytes of a stretch: first and last place, then counter, earliest and latest, little endian.
const STRETCH_BYTES: usize = 26;

/// What a confirmation says of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) observed: u64,
    pub(super) span: Span,
}

/// Places of a block, side by side, with one note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    first: u8,
    last: u8,
    note: Note,
}

/// The notes of a block, by place.
type Places = [Option<Note>; BLOCK as usize];

/// The notes of one stream, each block read once.
#[derive(Default)]
pub(super) struct Notes {
    blocks: HashMap<i64, Vec<Stretch>>,
}

impl Notes {
    /// Returns what the merge rule needs of a record: what its row says, or the note of it if that is newer.
    pub(super) fn over(&mut self, connection: &Connection, stream: i64, id: i64, row: Stored) -> Result<Stored, Fault> {
        let (block, place) = place_of(id);
        let stretches = match self.blocks.entry(block) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => free.insert(load(connection, stream, block)?),
        };
        let noted = stretches.iter().find(|one| (one.first..=one.last).contains(&place));
        Ok(match noted {
            Some(Stretch { note, .. }) if note.observed > row.observed => {
                Stored { observed: note.observed, span: note.span, ..row }
            }
            Some(_) | None => row,
        })
    }

    /// Writes confirmations, by row id. Of rows that the same commit writes, what they say is noted too where their
    /// neighbours are confirmed: a note breaks no stretch then, and a row of the table keeps its size.
    pub(super) fn write(
        &self,
        tx: &Tx<'_>,
        stream: i64,
        mut confirmed: Vec<(i64, Note)>,
        written: &[(i64, Note)],
    ) -> Result<(), Fault> {
        if confirmed.is_empty() {
            return Ok(());
        }
        confirmed.sort_unstable_by_key(|(id, _)| *id);
        for of_one in confirmed.chunk_by(|(a, _), (b, _)| place_of(*a).0 == place_of(*b).0) {
            let Some((block, _)) = of_one.first().map(|(id, _)| place_of(*id)) else { continue };
            let mut places = match self.blocks.get(&block) {
                Some(stretches) => spread(stretches),
                None => spread(&load(tx.connection(), stream, block)?),
            };
            let beside = written.iter().filter(|(id, _)| place_of(*id).0 == block);
            for (id, note) in of_one.iter().chain(beside) {
                if let Some(place) = places.get_mut(usize::from(place_of(*id).1)) {
                    *place = Some(*note);
                }
            }
            store(tx, stream, block, &places)?;
        }
        Ok(())
    }
}

/// Forgets the notes of rows that are removed, each given with its stream.
pub(super) fn forget(tx: &Tx<'_>, removed: impl IntoIterator<Item = (i64, i64)>) -> Result<(), Fault> {
    let mut blocks: BTreeMap<(i64, i64), Vec<u8>> = BTreeMap::new();
    for (stream, id) in removed {
        let (block, place) = place_of(id);
        blocks.entry((stream, block)).or_default().push(place);
    }
    // All are read before one is written: what refuses may have written nothing.
    let mut left = Vec::new();
    for ((stream, block), gone) in blocks {
        let mut places = spread(&load(tx.connection(), stream, block)?);
        let noted = gone.iter().filter_map(|place| places.get_mut(usize::from(*place))?.take()).count();
        if noted > 0 {
            left.push((stream, block, places));
        }
    }
    for (stream, block, places) in left {
        store(tx, stream, block, &places)?;
    }
    Ok(())
}

/// The row ids of a stream that were confirmed after a commit: one bit each.
pub(super) struct Confirmed {
    blocks: HashMap<i64, u128>,
}

impl Confirmed {
    pub(super) fn since(connection: &Connection, stream: i64, commit: u64) -> Result<Self, Fault> {
        let mut statement = connection.prepare_cached("SELECT block, notes FROM palisade_seen WHERE stream = ?1")?;
        let mut rows = statement.query([stream])?;
        let mut blocks = HashMap::new();
        while let Some(row) = rows.next()? {
            let stretches = unpack(row.get_ref(1)?.as_blob().map_err(|_| unreadable("note of what was seen"))?)?;
            let newer = stretches.iter().filter(|one| one.note.observed > commit);
            let bits = newer.flat_map(|one| one.first..=one.last).fold(0_u128, |bits, place| bits | 1 << place);
            if bits != 0 {
                blocks.insert(row.get(0)?, bits);
            }
        }
        Ok(Self { blocks })
    }

    pub(super) fn holds(&self, id: i64) -> bool {
        let (block, place) = place_of(id);
        self.blocks.get(&block).is_some_and(|bits| bits >> place & 1 == 1)
    }
}

// ------------------------------------------------------------------------------------------------------ the form

/// Returns the block of a row id, and its place there.
fn place_of(id: i64) -> (i64, u8) {
    (id.div_euclid(BLOCK), u8::try_from(id.rem_euclid(BLOCK)).unwrap_or(0))
}

fn load(connection: &Connection, stream: i64, block: i64) -> Result<Vec<Stretch>, Fault> {
    let found = connection
        .prepare_cached("SELECT notes FROM palisade_seen WHERE stream = ?1 AND block = ?2")?
        .query_one(params![stream, block], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    found.map_or(Ok(Vec::new()), |bytes| unpack(&bytes))
}

fn store(tx: &Tx<'_>, stream: i64, block: i64, places: &Places) -> Result<(), Fault> {
    if places.iter().all(Option::is_none) {
        tx.prepare("DELETE FROM palisade_seen WHERE stream = ?1 AND block = ?2")?.execute(params![stream, block])?;
        return Ok(());
    }
    tx.prepare("INSERT OR REPLACE INTO palisade_seen (stream, block, notes) VALUES (?1, ?2, ?3)")?.execute(params![
        stream,
        block,
        pack(places)
    ])?;
    Ok(())
}

fn spread(stretches: &[Stretch]) -> Places {
    let mut places = [None; BLOCK as usize];
    for Stretch { first, last, note } in stretches {
        if let Some(some) = places.get_mut(usize::from(*first)..=usize::from(*last)) {
            some.fill(Some(*note));
        }
    }
    places
}

/// Writes notes as stretches, as few as there can be.
fn pack(places: &Places) -> Vec<u8> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for (place, note) in (0..).zip(places) {
        let Some(note) = *note else { continue };
        match stretches.last_mut() {
            Some(one) if one.note == note && one.last.checked_add(1) == Some(place) => one.last = place,
            _ => stretches.push(Stretch { first: place, last: place, note }),
        }
    }
    let mut bytes = Vec::with_capacity(stretches.len() * STRETCH_BYTES);
    for Stretch { first, last, note } in stretches {
        bytes.extend([first, last]);
        bytes.extend(note.observed.to_le_bytes());
        bytes.extend(note.span.earliest.to_le_bytes());
        bytes.extend(note.span.latest.to_le_bytes());
    }
    bytes
}

fn unpack(bytes: &[u8]) -> Result<Vec<Stretch>, Fault> {
    let (stretches, rest) = bytes.as_chunks::<STRETCH_BYTES>();
    let number = |bytes: &[u8; STRETCH_BYTES], at: usize| {
        bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map(i64::from_le_bytes)
    };
    let one = |bytes: &[u8; STRETCH_BYTES]| {
        let [first, last, ..] = *bytes;
        let span = Span { earliest: number(bytes, 10)?, latest: number(bytes, 18)? };
        let lawful = first <= last && i64::from(last) < BLOCK;
        lawful.then_some(Stretch { first, last, note: Note { observed: number(bytes, 2)?.cast_unsigned(), span } })
    };
    let read: Option<Vec<_>> = stretches.iter().map(one).collect();
    read.filter(|_| rest.is_empty()).ok_or_else(|| unreadable("note of what was seen").into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn note(n: u64) -> Note {
        Note { observed: n, span: Span { earliest: -n.cast_signed(), latest: n.cast_signed() } }
    }

    fn places(notes: impl IntoIterator<Item = (usize, u64)>) -> Places {
        let mut places = [None; BLOCK as usize];
        notes.into_iter().for_each(|(place, n)| places[place] = Some(note(n)));
        places
    }

    proptest! {
        /// Fails when a stretch is read back with another end, or swallows its neighbour.
        #[test]
        fn notes_are_read_as_they_were_written(notes in prop::collection::btree_map(0_usize..128, 1_u64..4, 0..128)) {
            let places = places(notes);
            let read = unpack(&pack(&places)).map_err(|_| TestCaseError::fail("unreadable"))?;
            prop_assert_eq!(spread(&read), places);
        }
    }

    /// Fails when a page of records costs a note for each.
    #[test]
    fn records_confirmed_together_are_one_stretch() {
        let places = places((0..100).map(|place| (place, 7)).chain([(100, 8)]));
        assert_eq!(pack(&places).len(), 2 * STRETCH_BYTES);
    }

    /// Fails when a file that was damaged is read as if nothing, or anything, had been seen.
    #[test]
    fn damaged_notes_are_refused() {
        let whole = pack(&places([(3, 7)]));
        assert!(unpack(&whole).is_ok());
        let (mut backward, mut beyond) = (whole.clone(), whole.clone());
        backward[1] = 2;
        beyond[1] = 128;
        for damaged in [&whole[1..], &backward, &beyond] {
            assert!(unpack(damaged).is_err());
        }
    }

    /// Fails when the ids of two blocks share a place, also those below zero.
    #[test]
    fn each_id_has_its_own_place() {
        assert_eq!([0, 127, 128, 300, -1].map(place_of), [(0, 0), (0, 127), (1, 0), (2, 44), (-1, 127)]);
    }
}
