//! The innermost transport: reqwest with rustls.

/// Sends requests over reqwest.
#[derive(Debug)]
pub struct HttpTransport {}
/// Builds an [`HttpTransport`].
#[derive(Debug)]
pub struct HttpTransportBuilder {}
