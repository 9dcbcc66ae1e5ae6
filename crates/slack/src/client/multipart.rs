//! Files as multipart forms, for the methods of slack-morphism that still send them so.

use palisade_core::webhook::hmac;
use slack_morphism::multipart_form::FileMultipartData;

/// Writes a form: its content type and its bytes. The boundary is a digest of what it stands between, which therefore
/// does not hold it.
pub(super) fn write(fields: &[(&str, String)], file: Option<&FileMultipartData<'_>>) -> (String, Vec<u8>) {
    let data = file.map_or(b"".as_slice(), |file| file.data);
    let mut parts: Vec<&[u8]> = vec![data];
    parts.extend(fields.iter().map(|(_, value)| value.as_bytes()));
    let boundary = hmac::to_lower_hex(&hmac::sha256(b"multipart boundary", &parts));
    let mut body = Vec::with_capacity(data.len() + 1_024);
    if let Some(file) = file {
        let disposition = format!(r#"name="file"; filename="{}""#, quoted(&file.name));
        part(&mut body, &boundary, &disposition, Some(&file.content_type), file.data);
    }
    for (name, value) in fields {
        part(&mut body, &boundary, &format!(r#"name="{}""#, quoted(name)), None, value.as_bytes());
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

fn part(body: &mut Vec<u8>, boundary: &str, disposition: &str, kind: Option<&str>, data: &[u8]) {
    body.extend_from_slice(format!("--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n").as_bytes());
    if let Some(kind) = kind.filter(|kind| kind.bytes().all(|c| c.is_ascii_graphic() || c == b' ')) {
        body.extend_from_slice(format!("Content-Type: {kind}\r\n").as_bytes());
    }
    body.extend_from_slice(b"\r\n");
    body.extend_from_slice(data);
    body.extend_from_slice(b"\r\n");
}

/// A name inside quotation marks, as browsers write it (WHATWG HTML, multipart form data): it cannot end its line.
fn quoted(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a file's name can add a header or a part.
    #[test]
    fn a_name_stays_inside_its_quotation_marks() {
        let name = "a\"\r\nX-Evil: 1\r\n\r\n--".to_owned();
        let file = FileMultipartData { name, content_type: "text/plain\r\nX-Evil: 2".to_owned(), data: b"12" };
        let (kind, body) = write(&[("title", "t".to_owned())], Some(&file));
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
        let text = String::from_utf8(body).unwrap();
        let expected = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; \
             filename=\"a%22%0D%0AX-Evil: 1%0D%0A%0D%0A--\"\r\n\r\n12\r\n--{boundary}\r\n\
             Content-Disposition: form-data; name=\"title\"\r\n\r\nt\r\n--{boundary}--\r\n"
        );
        assert_eq!(text, expected);
    }
}
