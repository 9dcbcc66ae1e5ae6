//! How often wrong admin tokens may be tried: a bound for each address and one for all together, in bounded memory.
//! Time is an argument.
//!
//! While an address has used up its tries its tokens are not looked at, the right one neither: otherwise a guess would
//! cost nothing. The bound over all addresses spares those that have shown the right token lately, so that guesses from
//! many addresses lock nobody out who was in. Session cookies pass by the gate: they cannot be guessed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use palisade_core::Timestamp;
use palisade_core::net::Network;

/// Tries at once, and the time after which one more is free.
#[derive(Clone, Copy, Debug)]
struct Bound {
    tries: i64,
    every: i64,
}

/// For one address: a person who mistypes is not stopped, a program tries 10 a minute.
const OF_ONE: Bound = Bound { tries: 10, every: 6_000 };
/// For all together.
const OF_ALL: Bound = Bound { tries: 100, every: 1_000 };
/// Addresses remembered.
const CLIENTS_MAX: usize = 4_096;
/// How long an address that has shown the right token is spared the bound over all.
const TRUST: Duration = Duration::from_secs(24 * 3_600);

/// The tries made, as the moment at which all will be forgotten.
#[derive(Clone, Copy, Debug, Default)]
struct Debt(i64);

impl Debt {
    /// Tells how long until the next try is free.
    fn wait(self, now: Timestamp, bound: Bound) -> Option<Duration> {
        // A clock that was set back does not make anybody wait longer than from the full debt.
        let debt = self.0.saturating_sub(now.millis()).min(bound.tries * bound.every);
        let over = debt - (bound.tries - 1) * bound.every;
        u64::try_from(over).ok().filter(|over| *over > 0).map(Duration::from_millis)
    }

    fn add(&mut self, now: Timestamp, bound: Bound) {
        let most = now.millis().saturating_add(bound.tries * bound.every);
        self.0 = self.0.max(now.millis()).saturating_add(bound.every).min(most);
    }
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, Default)]
struct Client {
    debt: Debt,
    passed: Option<Timestamp>,
}

impl Client {
    fn is_trusted(&self, now: Timestamp) -> bool {
        self.passed.is_some_and(|passed| now.since(passed) < TRUST)
    }
}

#[derive(Debug, Default)]
struct Book {
    all: Debt,
    clients: HashMap<IpAddr, Client>,
}

/// Counts wrong tokens.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<Book>);

impl Gate {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether a token from the address may be looked at now.
    ///
    /// # Errors
    /// How long to wait.
    pub(crate) fn admit(&self, address: Option<IpAddr>, now: Timestamp) -> Result<(), Duration> {
        let book = self.book();
        let client = address.and_then(|address| book.clients.get(&network_of(address)));
        let own = client.and_then(|client| client.debt.wait(now, OF_ONE));
        let all = book.all.wait(now, OF_ALL).filter(|_| !client.is_some_and(|client| client.is_trusted(now)));
        own.max(all).map_or(Ok(()), Err)
    }

    /// Counts a wrong token.
    pub(crate) fn failed(&self, address: Option<IpAddr>, now: Timestamp) {
        let mut book = self.book();
        book.all.add(now, OF_ALL);
        if let Some(address) = address {
            book.client(network_of(address), now).debt.add(now, OF_ONE);
        }
    }

    /// Remembers an address that has shown the right token. Its wrong ones stay counted: it may be many behind one.
    pub(crate) fn passed(&self, address: Option<IpAddr>, now: Timestamp) {
        if let Some(address) = address {
            self.book().client(network_of(address), now).passed = Some(now);
        }
    }
}

impl Book {
    /// Gives the entry of an address; where there is no room, the one that matters least goes.
    fn client(&mut self, address: IpAddr, now: Timestamp) -> &mut Client {
        if !self.clients.contains_key(&address) && self.clients.len() >= CLIENTS_MAX {
            self.clients.retain(|_, client| client.debt.0 > now.millis() || client.is_trusted(now));
            let least = self.clients.iter().min_by_key(|(_, client)| (client.passed, client.debt.0));
            let least = least.map(|(address, _)| *address).filter(|_| self.clients.len() >= CLIENTS_MAX);
            if let Some(least) = least {
                self.clients.remove(&least);
            }
        }
        self.clients.entry(address).or_default()
    }
}

/// Gives what one client can hardly have two of: an IPv4 address, or the /64 of an IPv6 one.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(four) => IpAddr::V4(four),
        IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() & (!0 << 64))),
    }
}

/// Finds the client behind trusted proxies: the last address of `X-Forwarded-For` that is none of them. Where the peer
/// is no trusted proxy, or the header is not to be understood, it is the peer itself.
pub(crate) fn client_of<'h>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'h str>,
    trusted: &[Network],
) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer;
    for text in forwarded.rev().flat_map(|line| line.rsplit(',')) {
        if !is_trusted(client) {
            break;
        }
        let Ok(address) = text.trim().parse() else { break };
        client = address;
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn at(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    /// Tries a wrong token so many times; tells how many were looked at.
    fn wrong(gate: &Gate, address: Option<IpAddr>, times: usize, now: Timestamp) -> usize {
        let looked = (0..times).filter(|_| gate.admit(address, now).map(|()| gate.failed(address, now)).is_ok());
        looked.count()
    }

    /// Fails when failures are not counted for each address, or are forgotten too soon.
    #[test]
    fn an_address_has_ten_tries_and_then_ten_a_minute() {
        let gate = Gate::default();
        assert_eq!(wrong(&gate, ip("10.0.0.1"), 50, NOW), 10);
        assert_eq!(gate.admit(ip("10.0.0.1"), NOW), Err(Duration::from_secs(6)));
        assert_eq!(gate.admit(ip("10.0.0.2"), NOW), Ok(()), "another address");
        assert_eq!(gate.admit(ip("::ffff:10.0.0.1"), NOW), Err(Duration::from_secs(6)), "the same, written as IPv6");
        assert_eq!(wrong(&gate, ip("10.0.0.1"), 50, at(5)), 0);
        assert_eq!(wrong(&gate, ip("10.0.0.1"), 50, at(6)), 1);
        assert_eq!(wrong(&gate, ip("10.0.0.1"), 50, at(66)), 10);
        assert_eq!(wrong(&gate, ip("2001:db8::1"), 6, NOW) + wrong(&gate, ip("2001:db8::2"), 6, NOW), 10, "one /64");
    }

    /// Fails when addresses without end make tries without end, or lock out whoever was in.
    #[test]
    fn all_addresses_together_have_a_bound_that_spares_who_was_in() {
        let gate = Gate::default();
        gate.passed(ip("10.9.9.9"), NOW);
        let looked: usize =
            (0..5_000).map(|n| wrong(&gate, Some(IpAddr::from([11, 0, (n >> 8) as u8, n as u8])), 1, NOW)).sum();
        assert_eq!(looked, 100);
        assert_eq!(gate.admit(ip("12.0.0.1"), NOW), Err(Duration::from_secs(1)), "somebody new");
        assert_eq!(gate.admit(None, NOW), Err(Duration::from_secs(1)), "an unknown address");
        assert_eq!(gate.admit(ip("10.9.9.9"), NOW), Ok(()), "who was in");
        assert_eq!(wrong(&gate, ip("10.9.9.9"), 50, NOW), 10, "has its own bound");
        assert_eq!(gate.admit(ip("10.9.9.9"), at(24 * 3_600)), Ok(()));
        assert_eq!(wrong(&gate, None, 500, at(24 * 3_600)), 100);
        assert!(gate.admit(ip("10.9.9.9"), at(24 * 3_600)).is_err(), "was in too long ago");
    }

    /// Fails when an entry is kept for every address ever seen, or when the wrong one is forgotten.
    #[test]
    fn memory_is_bounded_and_forgets_what_matters_least() {
        let gate = Gate::default();
        gate.passed(ip("10.9.9.9"), NOW);
        assert_eq!(wrong(&gate, ip("10.0.0.1"), 10, NOW), 10);
        for n in 0..5_000_u32 {
            // Straight into the book: the bound over all would not let so many in.
            gate.failed(Some(IpAddr::from((0x0b00_0000 + n).to_be_bytes())), NOW);
        }
        assert_eq!(gate.book().clients.len(), CLIENTS_MAX);
        assert!(gate.admit(ip("10.0.0.1"), NOW).is_err(), "the guiltiest stays");
        assert_eq!(gate.admit(ip("10.9.9.9"), NOW), Ok(()), "and who was in");
    }

    /// Fails when a clock that is set back locks an address for as long.
    #[test]
    fn a_clock_that_goes_backwards_locks_nobody_out_for_long() {
        let gate = Gate::default();
        assert_eq!(wrong(&gate, ip("10.0.0.1"), 50, at(1_000_000)), 10);
        assert_eq!(gate.admit(ip("10.0.0.1"), NOW), Err(Duration::from_secs(6)));
        gate.failed(ip("10.0.0.1"), NOW);
        assert_eq!(gate.admit(ip("10.0.0.1"), at(6)), Ok(()));
        assert_eq!(Debt(i64::MAX).wait(Timestamp(i64::MIN), OF_ONE), Some(Duration::from_secs(6)));
    }

    #[track_caller]
    fn behind(peer: &str, lines: &[&str], client: &str) {
        let trusted = ["127.0.0.1", "10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap());
        let found = client_of(peer.parse().unwrap(), lines.iter().copied(), &trusted);
        assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
    }

    /// Fails when a client can name itself: what a stranger writes into the header stands before what the proxy adds.
    #[test]
    fn the_client_behind_a_proxy_is_the_last_address_no_proxy_of_ours_has() {
        behind("203.0.113.5", &["198.51.100.1"], "203.0.113.5");
        behind("127.0.0.1", &[], "127.0.0.1");
        behind("127.0.0.1", &["198.51.100.1"], "198.51.100.1");
        behind("127.0.0.1", &["1.2.3.4, 198.51.100.1"], "198.51.100.1");
        behind("127.0.0.1", &["1.2.3.4", "198.51.100.1, 10.1.2.3"], "198.51.100.1");
        behind("::ffff:10.0.0.1", &["2001:db8::7"], "2001:db8::7");
        behind("fd00::1", &["10.0.0.1,10.0.0.2"], "10.0.0.1");
        behind("127.0.0.1", &["1.2.3.4, unknown, 10.0.0.3"], "10.0.0.3");
        behind("127.0.0.1", &[""], "127.0.0.1");
    }
}
