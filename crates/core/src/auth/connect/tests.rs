//! The flow from end to end.
