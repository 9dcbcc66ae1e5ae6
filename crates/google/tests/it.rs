//! x
mod it {}
