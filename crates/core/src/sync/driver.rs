//! Runs one sync: pages from the source, merged and committed one transaction each.
