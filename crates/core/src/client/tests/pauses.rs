//! Pauses that outlive their process: what a client tells of them, and what another one makes of that.

use super::*;
use crate::call::{Limit, Scope};
use crate::clock::ManualClock;

static APP: Bucket = Bucket { name: "app", units: 100, per: Duration::from_secs(1), burst: 100 };
static SHARED: Operation =
    Operation { also: &[Limit { bucket: &APP, scope: Scope::Client, class: None }], ..SLOW_LANE_OF_APP };
const SLOW_LANE_OF_APP: Operation = operation("things.list", Replay::Safe, &FIVE);
const BASE: &str = "https://api.acme.test";
const BEGIN: Timestamp = Timestamp(1_800_000_000_000);

/// Keeps the pauses it is told of.
#[derive(Default)]
struct Told(Mutex<Vec<Pause>>);

impl PauseObserver for Told {
    fn paused(&self, pause: Pause) {
        self.0.lock().unwrap().push(pause);
    }
}

impl Told {
    fn take(&self) -> Vec<Pause> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// One process of several over a provider.
struct Process {
    client: Client,
    told: Arc<Told>,
    clock: Arc<ManualClock>,
}

impl Process {
    fn at(now: Timestamp, provider: &Arc<Provider>) -> Self {
        let (told, clock) = (Arc::new(Told::default()), Arc::new(ManualClock::starting_at(now)));
        let client = Client::builder(without_breaker(), Arc::clone(provider) as Arc<dyn Transport>, fixed())
            .clock(Arc::clone(&clock) as _)
            .random(Arc::new(SeededRandom::new(7)))
            .pause_observer(Arc::clone(&told) as _)
            .build()
            .unwrap();
        Self { client, told, clock }
    }

    async fn send(&self, operation: &'static Operation, connection: &str, lane: Option<&str>) -> Result<()> {
        let mut call = Call::new(operation, connection.into(), "t".into());
        call.lane = lane.map(Into::into);
        let deadline = Instant::now() + Duration::from_millis(10);
        self.client.send(request(call.with_deadline(deadline))).await.map(drop)
    }

    async fn held(&self, connection: &str) -> Option<Duration> {
        let until = self.client.held_until(&connection.into(), BASE).await;
        until.map(|until| until.since(self.clock.now()))
    }
}

fn throttled(seconds: &str) -> Reply {
    Reply::With(429, vec![("retry-after", seconds.to_owned())], Bytes::new())
}

fn pause(lane: &str, at: i64, until: i64) -> Pause {
    let moment = |seconds: i64| Timestamp(BEGIN.0 + seconds * 1_000);
    Pause { provider: "acme".to_owned(), lane: lane.to_owned(), at: moment(at), until: moment(until) }
}

// Fails when a pause is not told, is told of the wrong lane or with an end before the provider's, or when one that is
// over before it could be written is told, too.
#[tokio::test(start_paused = true)]
async fn a_pause_worth_a_row_is_told_with_the_name_of_its_lane() {
    for (hint, told) in [("0", false), ("4", false), ("5", true), ("60", true), ("99999999999", true)] {
        let process = Process::at(BEGIN, &Provider::always(throttled(hint)));
        process.send(&READ, "con_1", Some("C 1")).await.unwrap_err();
        let pauses = process.told.take();
        assert_eq!(pauses.len(), usize::from(told), "{hint}: {pauses:?}");
        for Pause { provider, lane, at, until } in pauses {
            assert_eq!((provider.as_str(), lane.as_str(), at), ("acme", "operation wide con_1 C%201", BEGIN));
            let asked = Duration::from_secs(hint.parse().unwrap()).min(HINT_MAX);
            assert!(
                until >= at.plus(asked) && until <= at.plus(asked.mul_f64(1.1) + Duration::from_millis(3)),
                "{until:?}"
            );
        }
        // Nothing leaves while it lasts, so there is nothing to tell again.
        process.send(&READ, "con_1", Some("C 1")).await.unwrap_err();
        assert!(process.told.take().is_empty(), "{hint}");
    }
}

// Fails when what another process was told is not heeded, by a lane that is there or one that comes later, or when other
// lanes are held back with it.
#[tokio::test(start_paused = true)]
async fn another_process_leaves_alone_what_the_first_was_told_to() {
    for known in [false, true] {
        let provider = Provider::in_turn(vec![throttled("60"), Reply::Status(200)]);
        let (first, second) = (Process::at(BEGIN, &provider), Process::at(BEGIN, &provider));
        first.send(&READ, "con_1", None).await.unwrap_err();
        if known {
            second.send(&READ, "con_1", None).await.unwrap();
        }
        let before = provider.count();
        sleep(Duration::from_secs(10)).await;
        second.clock.advance(Duration::from_secs(10));
        second.client.restore(&first.told.take());
        let left = second.held("con_1").await.unwrap();
        assert!(left >= Duration::from_secs(50) && left <= Duration::from_secs(57), "{left:?}");
        assert_eq!(second.held("con_2").await, None);
        let error = second.send(&READ, "con_1", None).await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::Throttled, 0));
        assert!(error.retry_after() > Some(Duration::from_secs(49)), "{error}");
        second.send(&READ, "con_1", Some("other part")).await.unwrap();
        second.send(&READ, "con_2", None).await.unwrap();
        second.send(&SLOW_LANE, "con_1", None).await.unwrap();
        assert_eq!(provider.count(), before + 3, "known: {known}");
        sleep(left).await;
        second.send(&READ, "con_1", None).await.unwrap();
    }
}

// Fails when a pause of everybody's lane is kept for one connection only.
#[tokio::test(start_paused = true)]
async fn a_pause_of_the_app_is_everybodys_in_the_next_process_too() {
    let provider = Provider::always(Reply::Status(200));
    let process = Process::at(BEGIN, &provider);
    process.client.restore(&[pause("client app *", 0, 30)]);
    process.send(&SHARED, "con_1", None).await.unwrap_err();
    process.send(&SLOW_LANE, "con_1", None).await.unwrap();
    assert!(process.held("never seen").await.is_some());
}

// Fails when a clock that jumps, or a row somebody made up, holds a lane back for longer than a provider can.
#[tokio::test(start_paused = true)]
async fn a_restored_pause_lasts_no_longer_than_it_was_asked_for() {
    const LANE: &str = "operation wide con_1";
    const DAY: i64 = 86_400;
    let longest = HINT_MAX.mul_f64(1.1) + Duration::from_secs(1);
    #[rustfmt::skip]
    let cases = [
        // What is stored, how far the clock is from then, and how long the lane is held back.
        (pause(LANE, 0, 60), 10, Some(50..=50)),
        (pause(LANE, 0, 60), -3 * DAY, Some(60..=60)),
        (pause(LANE, 0, 60), 60, None),
        (pause(LANE, 0, 60), 9 * DAY, None),
        (pause(LANE, 60, 0), -1, None),
        (pause(LANE, 0, 400 * DAY), 0, Some(DAY as u64..=longest.as_secs())),
        (Pause { at: Timestamp(i64::MIN), until: Timestamp(i64::MAX), ..pause(LANE, 0, 0) }, 0, Some(DAY as u64..=longest.as_secs())),
        (Pause { provider: "other".to_owned(), ..pause(LANE, 0, 60) }, 0, None),
        (pause("operation wide", 0, 60), 0, None),
        (pause("operation wide con_1 ", 0, 60), 0, None),
        (pause("operation narrow con_1", 0, 60), 0, None),
        (pause("", 0, 60), 0, None),
    ];
    for (row, clock, held) in cases {
        let provider = Provider::always(Reply::Status(200));
        let process = Process::at(Timestamp(BEGIN.0 + clock * 1_000), &provider);
        process.client.restore(std::slice::from_ref(&row));
        let wait = process.send(&READ, "con_1", None).await.err().map(|error| error.retry_after().unwrap().as_secs());
        assert_eq!(wait.is_some(), held.is_some(), "{row:?} {clock}: {wait:?}");
        if let (Some(wait), Some(held)) = (wait, held) {
            assert!(held.contains(&wait), "{row:?} {clock}: {wait}");
        }
    }
}

// Fails when a shorter pause takes the place of a longer one, whichever was first.
#[tokio::test(start_paused = true)]
async fn a_restored_pause_never_gets_shorter() {
    let provider = Provider::always(throttled("20"));
    let process = Process::at(BEGIN, &provider);
    process.send(&READ, "con_1", None).await.unwrap_err();
    for (end, least, most) in [(10, 20, 22), (60, 60, 60), (40, 60, 60)] {
        process.client.restore(&[pause("operation wide con_1", 0, end)]);
        let held = process.held("con_1").await.unwrap().as_secs();
        let wait = process.send(&READ, "con_1", None).await.unwrap_err().retry_after().unwrap().as_secs();
        assert!((least..=most).contains(&held) && (least..=most).contains(&wait), "{end}: {held} {wait}");
    }
    assert_eq!(provider.count(), 1);
}
