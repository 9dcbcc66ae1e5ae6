//! A provider's token endpoint that says what a test wants, and remembers what it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};

use crate::error::{Error, Result};
use crate::transport::Transport;

type Answer = Result<Response<Bytes>>;

/// A request as it was seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    /// Returns a field of the form.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let mut fields = oauth2::url::form_urlencoded::parse(self.body.as_bytes());
        fields.find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Clones are the same endpoint.
#[derive(Clone, Default)]
pub(crate) struct Script(Arc<Mutex<(VecDeque<Answer>, Vec<Seen>)>>);

impl Script {
    pub(crate) fn answer(&self, status: u16, body: impl Into<Bytes>) -> &Self {
        let response = Response::builder().status(status).body(body.into()).unwrap();
        self.push(Ok(response))
    }

    pub(crate) fn answer_with(&self, status: u16, header: (&'static str, &str), body: &'static str) -> &Self {
        let response = Response::builder().status(status).header(header.0, header.1).body(body.into()).unwrap();
        self.push(Ok(response))
    }

    pub(crate) fn fail(&self, error: Error) -> &Self {
        self.push(Err(error))
    }

    fn push(&self, answer: Answer) -> &Self {
        self.0.lock().unwrap().0.push_back(answer);
        self
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().1.clone()
    }

    /// The newest request.
    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().unwrap()
    }

    pub(crate) fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl Transport for Script {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let answer = {
            let mut script = self.0.lock().unwrap();
            let body = String::from_utf8(request.body().to_vec()).unwrap();
            script.1.push(Seen { url: request.uri().to_string(), headers: request.headers().clone(), body });
            script.0.pop_front()
        };
        match answer {
            Some(answer) => answer,
            // Nothing is planned: the answer never comes.
            None => std::future::pending().await,
        }
    }
}
