//! Messages as they come over the wire (RFC 5322, 2045), read as far as Gmail shows them: headers, parts, contents.

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use base64::engine::{DecodePaddingMode, general_purpose};

/// How deep parts may lie in parts.
const DEPTH_MAX: usize = 16;
/// How many parts are read.
const PARTS_MAX: usize = 200;

const LENIENT: GeneralPurposeConfig = general_purpose::NO_PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent);
static URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, LENIENT);
static PLAIN: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT);

/// Decodes what an API request holds: base64url, padded or not; the other alphabet is taken, too, as by Gmail.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE.decode(text).or_else(|_| PLAIN.decode(text)).ok()
}

/// Encodes as the API does: base64url with padding.
pub(crate) fn encode(bytes: &[u8]) -> String {
    general_purpose::URL_SAFE.encode(bytes)
}

/// One part, or a whole message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Part {
    /// In their order, unfolded.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) mime_type: String,
    pub(crate) filename: String,
    /// Decoded; empty for a part made of parts.
    pub(crate) content: Vec<u8>,
    pub(crate) parts: Vec<Part>,
}

impl Part {
    /// Reads a message.
    pub(crate) fn read(raw: &[u8]) -> Self {
        let mut left = PARTS_MAX;
        Self::within(raw, 0, &mut left)
    }

    fn within(raw: &[u8], depth: usize, left: &mut usize) -> Self {
        *left = left.saturating_sub(1);
        let (head, body) = split(raw);
        let headers = unfolded(head);
        let mut part = Self { headers, ..Self::default() };
        let kind = part.header("content-type").unwrap_or("text/plain").to_owned();
        part.mime_type = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let disposition = part.header("content-disposition").unwrap_or_default().to_owned();
        part.filename = parameter(&disposition, "filename").or_else(|| parameter(&kind, "name")).unwrap_or_default();
        match parameter(&kind, "boundary").filter(|_| part.mime_type.starts_with("multipart/") && depth < DEPTH_MAX) {
            Some(boundary) => {
                for piece in pieces(body, &boundary) {
                    if *left == 0 {
                        break;
                    }
                    part.parts.push(Self::within(piece, depth + 1, left));
                }
            }
            None => part.content = part.decoded(body),
        }
        part
    }

    /// Gives the first header of a name, whatever its case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn decoded(&self, body: &[u8]) -> Vec<u8> {
        match self.header("content-transfer-encoding").map(|how| how.trim().to_ascii_lowercase()).as_deref() {
            Some("base64") => {
                let text: Vec<u8> = body.iter().copied().filter(|c| !c.is_ascii_whitespace()).collect();
                STANDARD.decode(text).unwrap_or_default()
            }
            Some("quoted-printable") => quoted_printable(body),
            _ => body.to_vec(),
        }
    }

    /// Gives the first text of a kind in it.
    pub(crate) fn text(&self, kind: &str) -> Option<String> {
        if self.mime_type == kind && self.filename.is_empty() {
            return Some(String::from_utf8_lossy(&self.content).into_owned());
        }
        self.parts.iter().find_map(|part| part.text(kind))
    }
}

/// Splits head and body at the first empty line.
fn split(raw: &[u8]) -> (&[u8], &[u8]) {
    let mut at = 0;
    while let Some(rest) = raw.get(at..).filter(|rest| !rest.is_empty()) {
        let end = rest.iter().position(|c| *c == b'\n').map_or(rest.len(), |end| end + 1);
        let line = rest.get(..end).unwrap_or_default();
        if line == b"\n" || line == b"\r\n" {
            return (raw.get(..at).unwrap_or_default(), rest.get(end..).unwrap_or_default());
        }
        at += end;
    }
    (raw, &[])
}

fn unfolded(head: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(head);
    let mut out: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = out.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            out.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    out
}

/// Reads a parameter of a structured header, quoted or not.
fn parameter(header: &str, name: &str) -> Option<String> {
    header.split(';').skip(1).find_map(|part| {
        let (known, value) = part.split_once('=')?;
        known.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// Gives what stands between the boundaries.
fn pieces<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let marker = format!("--{boundary}");
    let (mut out, mut begin, mut at) = (Vec::new(), None, 0);
    while let Some(rest) = body.get(at..).filter(|rest| !rest.is_empty()) {
        let end = rest.iter().position(|c| *c == b'\n').map_or(rest.len(), |end| end + 1);
        let line = rest.get(..end).unwrap_or_default().trim_ascii_end();
        if let Some(tail) = line.strip_prefix(marker.as_bytes()).filter(|tail| tail.is_empty() || *tail == b"--") {
            if let Some(from) = begin.take() {
                let piece = body.get(from..at).unwrap_or_default();
                let piece = piece.strip_suffix(b"\n").unwrap_or(piece);
                out.push(piece.strip_suffix(b"\r").unwrap_or(piece));
            }
            if tail == b"--" {
                break;
            }
            begin = Some(at + end);
        }
        at += end;
    }
    out
}

fn quoted_printable(body: &[u8]) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut out, mut bytes) = (Vec::with_capacity(body.len()), body);
    while let Some((first, rest)) = bytes.split_first() {
        bytes = rest;
        match (first, rest) {
            (b'=', [b'\r', b'\n', ..]) => bytes = rest.get(2..).unwrap_or_default(),
            (b'=', [b'\n', ..]) => bytes = rest.get(1..).unwrap_or_default(),
            (b'=', [high, low, ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high * 16 + low);
                    bytes = rest.get(2..).unwrap_or_default();
                }
                _ => out.push(*first),
            },
            _ => out.push(*first),
        }
    }
    out
}

/// Gives the addresses of a header, without names.
pub(crate) fn addresses(header: &str) -> Vec<String> {
    let address = |part: &str| match (part.rfind('<'), part.rfind('>')) {
        (Some(from), Some(to)) if from < to => part.get(from + 1..to).unwrap_or_default().trim().to_ascii_lowercase(),
        _ => part.trim().to_ascii_lowercase(),
    };
    header.split(',').map(address).filter(|address| address.contains('@')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_apart() {
        let raw = b"To: Bob <bob@x.example>,\r\n eve@x.example\r\nSubject: hi\r\nContent-Type: multipart/mixed; boundary=\"b\"\r\n\r\npreamble\r\n\
            --b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\na=C3=A9=\r\nb\r\n\
            --b\r\nContent-Type: application/pdf; name=x.pdf\r\nContent-Disposition: attachment; filename=\"x.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\nAQID\r\nBA==\r\n--b--\r\n";
        let part = Part::read(raw);
        assert_eq!(addresses(part.header("to").unwrap()), ["bob@x.example", "eve@x.example"]);
        assert_eq!((part.mime_type.as_str(), part.parts.len()), ("multipart/mixed", 2));
        assert_eq!(part.text("text/plain").as_deref(), Some("aéb"));
        assert_eq!((part.parts[1].filename.as_str(), part.parts[1].content.as_slice()), ("x.pdf", &[1, 2, 3, 4][..]));
        let bare = Part::read(b"Subject: x\n\nbody");
        assert_eq!((bare.mime_type.as_str(), bare.content.as_slice()), ("text/plain", &b"body"[..]));
        assert_eq!(decode(&encode(b"\xff\xfe?")), decode(encode(b"\xff\xfe?").trim_end_matches('=')));
    }

    #[test]
    fn no_bytes_panic_or_run_away() {
        let nested = "Content-Type: multipart/mixed; boundary=b\n\n--b\n".repeat(40);
        assert!(Part::read(nested.as_bytes()).parts.len() <= PARTS_MAX);
        for raw in [&b""[..], b"\n", b"=", b"Content-Transfer-Encoding: quoted-printable\n\n=4", b"\xff\xff: \xff"] {
            let _ = Part::read(raw);
        }
    }
}
