//! Counters, gauges and histograms of the drivers, in one registry the hub writes out for Prometheus.
//!
//! Names are [OpenTelemetry's](https://opentelemetry.io/docs/specs/semconv/http/http-metrics/) for HTTP
//! (`http_client_request_duration_seconds`) and begin with `palisade_` for our own. A driver resolves a handle once,
//! with its labels, and keeps it: counting is then an atomic or one short lock, without looking up any label. A tenant
//! or connection is never a label; the number of series per name is bounded all the same ([`SERIES_MAX`]).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter as RawCounter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge as RawGauge;
use prometheus_client::metrics::histogram::Histogram as RawHistogram;
use prometheus_client::registry::{Metric, Registry};

/// The most series one name may have; beyond it every new set of labels counts under the value `overflow`.
/// A provider has some hundred operations and a dozen statuses, so a name that reaches this has a label it should not.
pub const SERIES_MAX: usize = 4_000;

/// The upper bounds OpenTelemetry advises for HTTP durations, in seconds.
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

type Labels = Vec<(&'static str, String)>;

/// The metrics of one process. Cheap to clone; clones count into the same registry.
///
/// ```
/// let metrics = palisade_core::metrics::Metrics::default();
/// let accepted = metrics.counter("palisade_deliveries", "Deliveries received", &[("verdict", "accepted")]);
/// accepted.inc();
/// assert!(metrics.encode().contains(r#"palisade_deliveries_total{verdict="accepted"} 1"#));
/// ```
#[derive(Clone, Default)]
pub struct Metrics {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    registry: Registry,
    counters: Named<RawCounter, fn() -> RawCounter>,
    gauges: Named<RawGauge, fn() -> RawGauge>,
    histograms: Named<RawHistogram, Bounds>,
}

type Named<M, C> = HashMap<&'static str, Kept<M, C>>;

/// A family with the handles given out from it, which also counts them.
struct Kept<M, C> {
    family: Family<Labels, M, C>,
    handles: HashMap<Labels, M>,
}

/// Counts up.
#[derive(Clone, Debug, Default)]
pub struct Counter(RawCounter);

/// A number that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(RawGauge);

/// Counts durations into buckets.
#[derive(Clone, Debug)]
pub struct Histogram(RawHistogram);

#[derive(Clone)]
struct Bounds(&'static [f64]);

impl MetricConstructor<RawHistogram> for Bounds {
    fn new_metric(&self) -> RawHistogram {
        RawHistogram::new(self.0.iter().copied())
    }
}

impl Metrics {
    /// The content type of [`Metrics::encode`].
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Returns the counter of a name and labels, registering it at its first use. The text form adds `_total`.
    #[must_use]
    pub fn counter(&self, name: &'static str, help: &str, labels: &[(&'static str, &str)]) -> Counter {
        self.with(|state| {
            Counter(series(&mut state.registry, &mut state.counters, name, help, labels, Family::default))
        })
    }

    /// Returns the gauge of a name and labels, registering it at its first use.
    #[must_use]
    pub fn gauge(&self, name: &'static str, help: &str, labels: &[(&'static str, &str)]) -> Gauge {
        self.with(|state| Gauge(series(&mut state.registry, &mut state.gauges, name, help, labels, Family::default)))
    }

    /// Returns the histogram of durations of a name (ending in `_seconds`) and labels, with the buckets
    /// OpenTelemetry advises for HTTP (5 ms to 10 s).
    #[must_use]
    pub fn durations(&self, name: &'static str, help: &str, labels: &[(&'static str, &str)]) -> Histogram {
        self.histogram(name, help, &SECONDS, labels)
    }

    /// Returns the histogram of a name and labels with upper bounds of its own. The bounds of the first use count.
    #[must_use]
    pub fn histogram(
        &self,
        name: &'static str,
        help: &str,
        bounds: &'static [f64],
        labels: &[(&'static str, &str)],
    ) -> Histogram {
        let make = || Family::new_with_constructor(Bounds(bounds));
        self.with(|state| Histogram(series(&mut state.registry, &mut state.histograms, name, help, labels, make)))
    }

    /// Writes everything in the OpenMetrics text form, which Prometheus reads.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a `String` cannot fail; a metric that could not be written leaves the text short, not the hub.
        let _ = self.with(|state| encode(&mut text, &state.registry));
        text
    }

    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Finds or registers the family of a name and gives the handle of its labels.
fn series<M, C>(
    registry: &mut Registry,
    named: &mut Named<M, C>,
    name: &'static str,
    help: &str,
    labels: &[(&'static str, &str)],
    make: impl FnOnce() -> Family<Labels, M, C>,
) -> M
where
    M: Clone,
    C: MetricConstructor<M> + Clone,
    Family<Labels, M, C>: Metric,
{
    let Kept { family, handles } = named.entry(name).or_insert_with(|| {
        let family = make();
        registry.register(name, help, family.clone());
        Kept { family, handles: HashMap::new() }
    });
    let mut labels: Labels = labels.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    if let Some(handle) = handles.get(&labels) {
        return handle.clone();
    }
    if handles.len() >= SERIES_MAX {
        labels.iter_mut().for_each(|(_, value)| *value = "overflow".to_owned());
        return family.get_or_create_owned(&labels);
    }
    let handle = family.get_or_create_owned(&labels);
    handles.insert(labels, handle.clone());
    handle
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.with(|s| s.counters.len() + s.gauges.len() + s.histograms.len());
        f.debug_struct("Metrics").field("names", &names).finish()
    }
}

impl Counter {
    /// Counts one.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// Counts `by`.
    pub fn add(&self, by: u64) {
        self.0.inc_by(by);
    }

    /// Returns the count.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.get()
    }
}

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// Takes one.
    pub fn dec(&self) {
        self.0.dec();
    }

    /// Sets the value.
    pub fn set(&self, to: i64) {
        self.0.set(to);
    }

    /// Returns the value.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.get()
    }
}

impl Histogram {
    /// Counts a duration, in seconds.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }

    /// Counts a value in the histogram's own unit.
    pub fn observe_value(&self, value: f64) {
        self.0.observe(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_and_its_twin_count_into_one_series() {
        let metrics = Metrics::default();
        metrics.counter("palisade_x", "X", &[("a", "1")]).inc();
        metrics.clone().counter("palisade_x", "X", &[("a", "1")]).add(2);
        metrics.gauge("palisade_open", "Open", &[]).set(-3);
        metrics.durations("palisade_took_seconds", "Took", &[]).observe(Duration::from_millis(20));
        let text = metrics.encode();
        assert!(text.contains("palisade_x_total{a=\"1\"} 3"), "{text}");
        assert!(text.contains("palisade_open{} -3"), "{text}");
        assert!(text.contains("palisade_took_seconds_bucket{le=\"0.025\"} 1"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    // Fails when the bound on series is taken away.
    #[test]
    fn a_label_without_end_does_not_grow_the_registry() {
        let metrics = Metrics::default();
        for n in 0..SERIES_MAX + 500 {
            metrics.counter("palisade_x", "X", &[("n", &n.to_string())]).inc();
        }
        let text = metrics.encode();
        assert!(text.contains("palisade_x_total{n=\"overflow\"} 500"));
        assert_eq!(text.lines().filter(|line| line.starts_with("palisade_x_total")).count(), SERIES_MAX + 1);
    }
}
