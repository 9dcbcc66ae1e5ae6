//! Counters and histograms of the drivers, in a registry the hub writes out for Prometheus.

/// The metrics of one process. Cheap to clone; clones count into the same registry.
#[derive(Clone, Debug, Default)]
pub struct Metrics {}
