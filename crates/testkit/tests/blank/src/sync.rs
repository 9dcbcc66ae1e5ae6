//! Blank's streams: requests out, answers in; pure.

use bytes::Bytes;
use http::{Request, Response};
use palisade_core::sync::{Change, Cursor, Page, Site, Source, Span, StreamKind, StreamSpec};
use palisade_core::webhook::Event;
use palisade_core::{Error, ErrorKind, RecordId, Result, StreamName};

static STREAMS: [StreamSpec; 1] = [StreamSpec { name: "things", kind: StreamKind::Records }];

/// Blank's streams. Reads none until their pages are written down here.
#[derive(Clone, Copy, Debug)]
pub struct BlankSource;

fn unwritten(what: &'static str) -> Error {
    Error::new(ErrorKind::Config, what).during("blank", "sync")
}

impl Source for BlankSource {
    fn streams(&self) -> &'static [StreamSpec] {
        &STREAMS
    }

    fn request(&self, _: &Site, _: &StreamName, _: Option<&Cursor>) -> Result<Request<Bytes>> {
        Err(unwritten("no request is written for a page"))
    }

    fn page(&self, _: &StreamName, _: Option<&Cursor>, _: &Response<Bytes>, _: Span) -> Result<Page> {
        Err(unwritten("no page can be read"))
    }

    fn fetch(&self, _: &Site, _: &StreamName, _: &RecordId) -> Result<Request<Bytes>> {
        Err(unwritten("no request is written for one record"))
    }

    fn fetched(&self, _: &StreamName, _: &RecordId, _: &Response<Bytes>, _: Span) -> Result<Change> {
        Err(unwritten("no record can be read"))
    }

    fn concerns(&self, _kind: &str) -> bool {
        false
    }

    fn apply(&self, _event: &Event) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }
}
