//! Addresses: networks as they are written in a configuration, and which addresses may be connected to when somebody
//! outside the house has said where. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address, or a network in the form `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Tells whether an address is in it. An IPv4 address written as IPv6 (`::ffff:10.0.0.1`) is the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let apart = u64::from(own.to_bits() ^ other.to_bits());
                apart >> (32 - self.bits.min(32)) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let apart = own.to_bits() ^ other.to_bits();
                apart.checked_shr(u32::from(128 - self.bits.min(128))).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

/// Says that a text is neither an address nor a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "there is nothing more to say")]
pub struct NoNetwork;

impl fmt::Display for NoNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither an address nor a network such as 10.0.0.0/8")
    }
}

impl std::error::Error for NoNetwork {}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| NoNetwork)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| NoNetwork)?;
        if bits > most { Err(NoNetwork) } else { Ok(Self { address, bits }) }
    }
}

impl TryFrom<String> for Network {
    type Error = NoNetwork;

    fn try_from(text: String) -> Result<Self, NoNetwork> {
        text.parse()
    }
}

/// Which addresses may be connected to beyond the public ones. The default allows those only, over https only.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "settings; any value is valid")]
pub struct Reach {
    /// Loopback, private, unique-local and shared (carrier-grade NAT) addresses too. Never link-local, multicast or
    /// those of a cloud's metadata service: they must be named.
    pub private: bool,
    /// Networks that are allowed whatever they are.
    pub networks: Vec<Network>,
    /// Plain http too.
    pub plain: bool,
}

/// Says why an address is not connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutOfReach {
    /// The address.
    pub address: IpAddr,
    /// What kind of address it is.
    pub what: &'static str,
}

impl fmt::Display for OutOfReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.address, self.what)
    }
}

impl std::error::Error for OutOfReach {}

impl Reach {
    /// Tells whether an address may be connected to.
    ///
    /// # Errors
    /// What kind of address it is.
    pub fn check(&self, address: IpAddr) -> Result<(), OutOfReach> {
        let named = self.networks.iter().any(|network| network.contains(address));
        let hidden = match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(six) => embedded(six),
        };
        // Who names a translating prefix does not name every address that can be written with it.
        if named && hidden.is_none_or(|four| self.check(IpAddr::V4(four)).is_ok()) {
            return Ok(());
        }
        let (what, lift) = match address {
            IpAddr::V4(four) => match special_v4(four) {
                None => return Ok(()),
                Some(special) => special,
            },
            IpAddr::V6(six) => match special_v6(six) {
                None => return Ok(()),
                Some(special) => special,
            },
        };
        if self.private && lift == Lift::Private { Ok(()) } else { Err(OutOfReach { address, what }) }
    }
}

/// What allows a special address, besides its being named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lift {
    Private,
    Nothing,
}

const METADATA: &str = "a cloud's metadata service";
const PRIVATE: &str = "private";
const RESERVED: &str = "reserved";

/// Special IPv4 networks, the narrow ones first. Source: the IANA IPv4 Special-Purpose Address Registry (RFC 6890 and
/// what followed), read 2026-11; the metadata addresses: Alibaba Cloud, Azure (`168.63.129.16`, a public one), and for
/// AWS, Google and most others `169.254.169.254`, which is link-local.
const SPECIAL_V4: &[(Ipv4Addr, u32, &str, Lift)] = &[
    (Ipv4Addr::new(100, 100, 100, 200), 32, METADATA, Lift::Nothing),
    (Ipv4Addr::new(168, 63, 129, 16), 32, METADATA, Lift::Nothing),
    (Ipv4Addr::new(0, 0, 0, 0), 8, "of this machine", Lift::Nothing),
    (Ipv4Addr::new(10, 0, 0, 0), 8, PRIVATE, Lift::Private),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared behind a provider's NAT", Lift::Private),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback", Lift::Private),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local", Lift::Nothing),
    (Ipv4Addr::new(172, 16, 0, 0), 12, PRIVATE, Lift::Private),
    (Ipv4Addr::new(192, 0, 0, 0), 24, RESERVED, Lift::Nothing),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documentation", Lift::Nothing),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "a 6to4 relay", Lift::Nothing),
    (Ipv4Addr::new(192, 168, 0, 0), 16, PRIVATE, Lift::Private),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarks", Lift::Nothing),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documentation", Lift::Nothing),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documentation", Lift::Nothing),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast", Lift::Nothing),
    (Ipv4Addr::new(240, 0, 0, 0), 4, RESERVED, Lift::Nothing),
];

fn special_v4(address: Ipv4Addr) -> Option<(&'static str, Lift)> {
    let within = |(network, bits, ..): &&(Ipv4Addr, u32, &str, Lift)| {
        (network.to_bits() ^ address.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
    };
    SPECIAL_V4.iter().find(within).map(|(_, _, what, lift)| (*what, *lift))
}

/// Special IPv6 networks, the narrow ones first. Source: the IANA IPv6 Special-Purpose Address Registry, read 2026-11.
const SPECIAL_V6: &[(Ipv6Addr, u32, &str, Lift)] = &[
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128, METADATA, Lift::Nothing),
    (Ipv6Addr::UNSPECIFIED, 128, "of this machine", Lift::Nothing),
    (Ipv6Addr::LOCALHOST, 128, "loopback", Lift::Private),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, "an IPv4 address written as IPv6", Lift::Nothing),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 32, "translated to IPv4 (NAT64)", Lift::Nothing),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "translated to IPv4 (6to4)", Lift::Nothing),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "for documentation", Lift::Nothing),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "for documentation", Lift::Nothing),
    // Teredo, ORCHID, benchmarks and whatever else is assigned there: none of them is a host of the internet.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, RESERVED, Lift::Nothing),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, "unique-local", Lift::Private),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local", Lift::Nothing),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, "site-local", Lift::Private),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "multicast", Lift::Nothing),
];

fn special_v6(address: Ipv6Addr) -> Option<(&'static str, Lift)> {
    let within = |network: Ipv6Addr, bits: u32| {
        (network.to_bits() ^ address.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
    };
    let found = SPECIAL_V6.iter().find(|(network, bits, ..)| within(*network, *bits));
    // Only 2000::/3 is given to hosts of the internet.
    let beyond = !within(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
    found.map(|(_, _, what, lift)| (*what, *lift)).or(beyond.then_some((RESERVED, Lift::Nothing)))
}

/// Returns the IPv4 address that an IPv6 address stands for: mapped, compatible, 6to4 or NAT64.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = |bits: u128| Ipv4Addr::from_bits(u32::try_from(bits & u128::from(u32::MAX)).unwrap_or(0));
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, ..] => Some(low(address.to_bits())),
        [0x2002, ..] => Some(low(address.to_bits() >> 80)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reach: &Reach, address: &str, what: Result<(), &str>) {
        let found = reach.check(address.parse().unwrap()).map_err(|refused| refused.what);
        assert_eq!(found, what, "{address}");
    }

    /// Fails when a line of the tables is left out, has another width, or an IPv6 form of an address is forgotten.
    #[test]
    fn only_hosts_of_the_internet_are_in_reach() {
        let reach = Reach::default();
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "168.63.129.15",
            "2606:4700::1111",
            "2a00::1",
            "2001:200::1",
            "2001:4860::8888",
            "2003::1",
            "3ffe::1",
            "2001:db7::1",
        ] {
            check(&reach, address, Ok(()));
        }
        for (address, what) in [
            ("0.0.0.0", "of this machine"),
            ("0.255.0.1", "of this machine"),
            ("10.0.0.0", PRIVATE),
            ("10.255.255.255", PRIVATE),
            ("100.64.0.0", "shared behind a provider's NAT"),
            ("100.127.255.255", "shared behind a provider's NAT"),
            ("100.100.100.200", METADATA),
            ("127.0.0.1", "loopback"),
            ("127.255.255.255", "loopback"),
            ("168.63.129.16", METADATA),
            ("169.254.0.1", "link-local"),
            ("169.254.169.254", "link-local"),
            ("169.254.255.255", "link-local"),
            ("172.16.0.0", PRIVATE),
            ("172.31.255.255", PRIVATE),
            ("192.0.0.1", RESERVED),
            ("192.0.2.1", "for documentation"),
            ("192.88.99.1", "a 6to4 relay"),
            ("192.168.0.0", PRIVATE),
            ("192.168.255.255", PRIVATE),
            ("198.18.0.0", "for benchmarks"),
            ("198.19.255.255", "for benchmarks"),
            ("198.51.100.9", "for documentation"),
            ("203.0.113.9", "for documentation"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", RESERVED),
            ("255.255.255.255", RESERVED),
            ("::", "of this machine"),
            ("::1", "loopback"),
            ("::127.0.0.1", RESERVED),
            ("::8.8.8.8", RESERVED),
            ("::ffff:127.0.0.1", "an IPv4 address written as IPv6"),
            ("::ffff:169.254.169.254", "an IPv4 address written as IPv6"),
            ("::ffff:8.8.8.8", "an IPv4 address written as IPv6"),
            ("64:ff9b::7f00:1", "translated to IPv4 (NAT64)"),
            ("64:ff9b:1::a00:1", "translated to IPv4 (NAT64)"),
            ("64:ff9b::808:808", "translated to IPv4 (NAT64)"),
            ("2002:7f00:1::1", "translated to IPv4 (6to4)"),
            ("2002:808:808::1", "translated to IPv4 (6to4)"),
            ("2001::1", RESERVED),
            ("2001:2::1", RESERVED),
            ("2001:20::1", RESERVED),
            ("2001:1ff::1", RESERVED),
            ("2001:db8::1", "for documentation"),
            ("3fff::1", "for documentation"),
            ("fc00::1", "unique-local"),
            ("fdff::1", "unique-local"),
            ("fd00:ec2::254", METADATA),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("100::1", RESERVED),
            ("4000::1", RESERVED),
            ("5f00::1", RESERVED),
            ("fe00::1", RESERVED),
        ] {
            check(&reach, address, Err(what));
        }
    }

    /// Fails when what is meant for a developer's machine opens a cloud's metadata service, or a named network opens
    /// what can be written with it.
    #[test]
    fn what_is_allowed_is_that_and_no_more() {
        let private = Reach { private: true, ..Reach::default() };
        for address in ["127.0.0.1", "::1", "10.1.2.3", "172.20.0.1", "192.168.1.1", "100.64.0.1", "fd12::1", "1.1.1.1"]
        {
            check(&private, address, Ok(()));
        }
        for address in ["169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "fd00:ec2::254", "100.100.100.200"]
        {
            assert!(private.check(address.parse().unwrap()).is_err(), "{address}");
        }
        for address in ["::ffff:127.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1"] {
            assert!(private.check(address.parse().unwrap()).is_err(), "{address}");
        }
        let networks = |list: &[&str]| Reach {
            networks: list.iter().map(|network| network.parse().unwrap()).collect(),
            ..Reach::default()
        };
        let named = networks(&["127.0.0.1", "169.254.169.254/32", "64:ff9b::/96"]);
        for (address, lawful) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("127.0.0.2", false),
            ("169.254.169.254", true),
            ("169.254.169.253", false),
            ("64:ff9b::808:808", true),
            ("64:ff9b::7f00:1", true),
            ("64:ff9b::7f00:2", false),
            ("64:ff9b::a00:1", false),
            ("64:ff9b:1::808:808", false),
        ] {
            assert_eq!(named.check(address.parse().unwrap()).is_ok(), lawful, "{address}");
        }
    }

    #[test]
    fn networks_are_read_or_refused() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.168.1.1", "192.168.1.1", "192.168.1.2"),
            ("0.0.0.0/0", "255.1.1.1", "::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "2001::1", "1.1.1.1"),
        ] {
            let network: Network = text.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{inside} in {text}");
            assert!(!network.contains(outside.parse().unwrap()), "{outside} in {text}");
            assert_eq!(network.to_string().parse(), Ok(network), "{text}");
        }
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "example.com", "10.0.0.0/", "10.0.0.0/-1"] {
            assert_eq!(text.parse::<Network>(), Err(NoNetwork), "{text}");
        }
    }
}
