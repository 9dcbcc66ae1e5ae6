//! The reference model of a store: everything in maps behind one lock.
