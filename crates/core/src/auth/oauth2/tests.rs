//! What answers of authorisation servers mean.
