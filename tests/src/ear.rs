//! Hears everything that is logged by anybody in the process while it listens.
