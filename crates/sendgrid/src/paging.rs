//! The walk through a list of suppressed addresses.
//!
//! SendGrid pages by offset, and an address that is taken off while a run is under way moves all that follow it one
//! place forward: the next page would begin behind one that was never seen, and a full run would take that one for
//! deleted. So each page but the first begins one place earlier, on an address that was seen; when it is not there, the
//! walk goes back until it meets one that was seen. Nothing is assumed about the list's order but that it stays.
//! (SendGrid's documentation advises offsets that are multiples of the page, and defines them as addresses to skip.)

use palisade_core::sync::Cursor;
use palisade_core::webhook::hmac;
use sha2::{Digest, Sha256};

/// The largest page SendGrid gives (SendGrid OpenAPI, 2026-01), less the place that is read again.
pub(crate) const PAGE_MAX: u32 = 499;
/// Addresses that are remembered: so many may be taken off between two pages before the walk has to look for its place
/// from the beginning.
const SEEN_MAX: usize = 8;
/// The length of a remembered address's hash, in hexadecimal: cursors are stored in plain, and addresses are people.
const HASH_CHARS: usize = 12;

/// A place in a walk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Only addresses added at or after this second.
    since: Option<i64>,
    /// Only addresses added until this second: when the walk began, so that what is added meanwhile moves nothing.
    until: Option<i64>,
    offset: u64,
    /// How many addresses the last page gave: so far the walk goes back at once.
    step: u64,
    /// Hashes of the addresses seen last.
    seen: Vec<String>,
    /// A hash of the last page, when it held nothing new: the same page once more leads nowhere.
    stale: Option<String>,
}

/// Where a walk goes after a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// On, or back.
    More(Walk),
    /// The list has ended; when the walk had begun.
    Done { begun: Option<i64> },
}

impl Walk {
    /// Begins with the addresses added since a second, or with all.
    pub(crate) fn begin(since: Option<i64>) -> Self {
        Self { since, ..Self::default() }
    }

    /// Returns the query of this place.
    pub(crate) fn query(&self, page_size: u32) -> String {
        let again = u32::from(!self.seen.is_empty());
        let mut query = format!("limit={}&offset={}", page_size.clamp(1, PAGE_MAX) + again, self.offset);
        for (name, bound) in [("start_time", self.since), ("end_time", self.until)] {
            if let Some(bound) = bound {
                query.push_str(&format!("&{name}={bound}"));
            }
        }
        query
    }

    /// Decides where to go after a page of these ids, read at a second by SendGrid's clock. Returns how many of the
    /// page's first ones were seen already. Nothing is told from how many there are: the list has ended where nothing
    /// stands behind the address that was seen last.
    pub(crate) fn advance(&self, ids: &[String], read_at: Option<i64>) -> (usize, Step) {
        let begun = self.until.or(read_at);
        let hashes: Vec<String> = ids.iter().map(|id| hash(id)).collect();
        let met = hashes.iter().rposition(|hash| self.seen.contains(hash));
        let lost = met.is_none() && !self.seen.is_empty();
        if lost && self.offset > 0 {
            let offset = self.offset.saturating_sub(self.step.max(1));
            return (ids.len(), Step::More(Self { offset, until: begun, stale: None, ..self.clone() }));
        }
        if ids.is_empty() || (ids.len() == 1 && met.is_some()) {
            return (ids.len(), Step::Done { begun });
        }
        let known = met.map_or(0, |at| at + 1);
        let stale = (known == ids.len()).then(|| hash(&ids.join("\n")));
        if stale.is_some() && stale == self.stale {
            // Shown the same for ever, the walk stays where it is: whoever walks sees that it does not advance.
            return (known, Step::More(self.clone()));
        }
        let fresh = hashes.into_iter().skip(known);
        let mut seen: Vec<String> = self.seen.iter().cloned().chain(fresh).collect();
        seen.drain(..seen.len().saturating_sub(SEEN_MAX));
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let offset = self.offset.saturating_add(count(ids.len())).saturating_sub(1);
        let step = count(ids.len() - known);
        (known, Step::More(Self { since: self.since, until: begun, offset, step, seen, stale }))
    }

    /// Writes the place as a cursor: `walk:<since>:<until>:<offset>:<step>:<hash>,<hash>…`, and `:<hash>` of a page that
    /// held nothing new.
    pub(crate) fn cursor(&self) -> Cursor {
        let number = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let (since, until) = (number(self.since), number(self.until));
        let stale = self.stale.as_ref().map_or_else(String::new, |stale| format!(":{stale}"));
        let seen = self.seen.join(",");
        Cursor::new(format!("walk:{since}:{until}:{}:{}:{seen}{stale}", self.offset, self.step))
    }

    /// Reads a cursor: one of [`Walk::cursor`], or `since:<second>` where a run begins.
    pub(crate) fn read(cursor: &Cursor) -> Option<Self> {
        let text = cursor.as_str();
        if let Some(since) = text.strip_prefix("since:") {
            return Some(Self::begin(Some(since.parse().ok()?)));
        }
        let mut parts = text.strip_prefix("walk:")?.split(':');
        let mut number = || match parts.next()? {
            "-" => Some(None),
            text => text.parse().ok().map(Some),
        };
        let (since, until) = (number()?, number()?);
        let (offset, step) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let seen = parts.next()?;
        let seen: Vec<String> = seen.split(',').filter(|hash| !hash.is_empty()).map(str::to_owned).collect();
        let plain = |hash: &String| hash.len() == HASH_CHARS && hash.bytes().all(|c| c.is_ascii_hexdigit());
        let stale = parts.next().map(str::to_owned);
        let whole = parts.next().is_none() && seen.len() <= SEEN_MAX && seen.iter().chain(&stale).all(plain);
        whole.then_some(Self { since, until, offset, step, seen, stale })
    }
}

fn hash(id: &str) -> String {
    let mut hash = hmac::to_lower_hex(&Sha256::digest(id.as_bytes()));
    hash.truncate(HASH_CHARS);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks a list that `meddle` changes before each page; returns every id that was given, in order.
    fn walk(list: &mut Vec<String>, size: u32, mut meddle: impl FnMut(usize, &mut Vec<String>)) -> Vec<String> {
        let (mut at, mut given) = (Walk::begin(None), Vec::new());
        for page in 0..10_000 {
            meddle(page, list);
            let query = at.query(size);
            let number = |name: &str| -> usize {
                query.split('&').find_map(|pair| pair.strip_prefix(name)).map_or(0, |text| text.parse().unwrap())
            };
            let ids: Vec<String> = list.iter().skip(number("offset=")).take(number("limit=")).cloned().collect();
            let (known, step) = at.advance(&ids, Some(1_767_225_600));
            given.extend(ids.into_iter().skip(known));
            match step {
                Step::Done { begun } => {
                    assert_eq!(begun, Some(1_767_225_600));
                    return given;
                }
                Step::More(next) => {
                    assert_eq!(Walk::read(&next.cursor()).as_ref(), Some(&next), "a cursor is read back");
                    assert_ne!(next, at, "the walk advances");
                    at = next;
                }
            }
        }
        panic!("the walk did not end");
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("p{n}@example.com")).collect()
    }

    #[test]
    fn a_quiet_list_is_given_once_in_pages_of_any_size() {
        for count in [0, 1, 2, 3, 7, 8, 20, 23] {
            for size in [1, 2, 7, 499] {
                assert_eq!(walk(&mut names(count), size, |_, _| {}), names(count), "{count} in pages of {size}");
            }
        }
    }

    /// Fails when the next page is asked for behind the last one: what was taken off would hide as many others.
    #[test]
    fn nothing_is_passed_over_when_addresses_are_taken_off_meanwhile() {
        for size in [1, 2, 7] {
            for taken in [1, 3, 9, 15] {
                for at in 1..6 {
                    let mut list = names(40);
                    let gone: Vec<String> = names(taken);
                    let given = walk(&mut list, size, |page, list| {
                        if page == at {
                            list.retain(|id| !gone.contains(id));
                        }
                    });
                    for id in list {
                        assert!(
                            given.contains(&id),
                            "{id} was passed over: pages of {size}, {taken} taken off at {at}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_very_address_it_stands_on_may_be_taken_off_page_after_page() {
        for size in [1, 2, 7] {
            let mut list = names(30);
            let mut last = None;
            let given = walk(&mut list, size, |page, list| {
                if page > 0 && page % 2 == 0 {
                    list.retain(|id| Some(id) != last.as_ref());
                }
                last = list.get((page + 1) * usize::try_from(size).unwrap() - 1).cloned();
            });
            for id in list {
                assert!(given.contains(&id), "{id} was passed over in pages of {size}");
            }
        }
    }

    /// Fails when the same page for ever is walked for ever: its offset would grow without an end.
    #[test]
    fn a_page_that_is_always_the_same_leads_nowhere() {
        let mut at = Walk::begin(None);
        for _ in 0..5 {
            let (_, Step::More(next)) = at.advance(&names(3), Some(1)) else { panic!("it has no end") };
            assert_eq!(Walk::read(&next.cursor()).as_ref(), Some(&next), "a cursor is read back");
            if next == at {
                return;
            }
            at = next;
        }
        panic!("the walk goes on");
    }

    #[test]
    fn a_list_that_is_emptied_ends() {
        assert_eq!(
            walk(&mut names(10), 2, |page, list| if page == 2 {
                list.clear()
            })
            .len(),
            4
        );
    }

    #[test]
    fn what_is_no_cursor_is_none() {
        for bad in [
            "",
            "since:",
            "since:x",
            "walk:",
            "walk:-:-:0:1",
            "walk:-:-:-1:1:",
            "walk:-:-:0:1::",
            "walk:-:-:0:1:xyz",
            "walk:-:-:0:1:0123456789abc",
            "walk:x:-:0:1:",
            "walk:-:-:0::",
            "offset:1",
        ] {
            assert_eq!(Walk::read(&Cursor::new(bad)), None, "{bad}");
        }
        assert_eq!(Walk::read(&Cursor::new("since:5")), Some(Walk::begin(Some(5))));
    }
}
