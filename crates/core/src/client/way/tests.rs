//! Lanes in simulated time: one by itself, and several that operations share.

use std::num::NonZeroU32;
use std::sync::Mutex;

use super::*;
use crate::call::{Bucket, Priority};
use crate::id::TenantId;
use crate::random::{Random, SeededRandom};

static TEN: Bucket = Bucket { name: "ten", units: 10, per: Duration::from_secs(1), burst: 10 };
static ONE: Bucket = Bucket { name: "one", units: 1, per: Duration::from_secs(1), burst: 1 };

struct Scene {
    way: Way,
    origin: Instant,
}

impl Scene {
    /// One lane.
    fn new(bucket: &Bucket, reserve: f64) -> Arc<Self> {
        World::new(reserve).operation(bucket, &[])
    }

    async fn units(
        &self,
        tenant: &str,
        priority: Priority,
        patience: Duration,
    ) -> Result<(Units<'_>, Instant), Refusal> {
        let now = Instant::now();
        let tenant = TenantId::from(tenant);
        let passage = Passage {
            tenant: &tenant,
            priority,
            cost: NonZeroU32::MIN,
            deadline: now + patience,
            origin: self.origin,
            waiting_max: 1_000,
        };
        self.way.pass(passage, now, nanos_since(self.origin, now)).await
    }

    /// Passes and sends; gives how long it waited.
    async fn pass(&self, tenant: &str, priority: Priority, patience: Duration) -> Result<Duration, Refusal> {
        let now = Instant::now();
        let (units, at) = self.units(tenant, priority, patience).await?;
        units.spend();
        Ok(at - now)
    }

    /// Counts the units that are there now, by taking them.
    async fn left(&self) -> usize {
        let mut left = 0;
        while self.pass("t", Priority::Interactive, Duration::ZERO).await.is_ok() {
            left += 1;
        }
        left
    }

    fn pause(&self, by: Duration) {
        self.way.pause_until(Scope::Operation, nanos_since(self.origin, Instant::now() + by), |_| {});
    }

    fn waiting(&self) -> usize {
        self.way.lanes().map(Lane::waiting).sum()
    }
}

/// What the operations of an account share.
struct World {
    reserve: f64,
    origin: Instant,
}

impl World {
    fn new(reserve: f64) -> Self {
        Self { reserve, origin: Instant::now() }
    }

    fn lane(&self, bucket: &Bucket) -> Arc<Lane> {
        Arc::new(Lane::new(bucket, self.reserve).unwrap())
    }

    /// An operation with a lane of its own and others it shares.
    fn operation(&self, bucket: &Bucket, shared: &[&Arc<Lane>]) -> Arc<Scene> {
        let shared = shared.iter().map(|lane| (Scope::Account, Arc::clone(lane)));
        let wider =
            shared.map(|(scope, lane)| Wider { scope, bucket: &TEN, lane, charged: AtomicU64::new(0) }).collect();
        let key =
            LaneKey { connection: Some("c".into()), part: None, bucket: BucketKey(&TEN), scope: Scope::Operation };
        Arc::new(Scene { way: Way { own: self.lane(bucket), key, wider }, origin: self.origin })
    }

    fn pause(&self, lane: &Lane, by: Duration) {
        lane.pause_until(nanos_since(self.origin, Instant::now() + by));
    }
}

const PATIENT: Duration = Duration::from_secs(3_600);

// Fails when the limiter sleeps on a clock of its own, or grants more than the bucket.
#[tokio::test(start_paused = true)]
async fn the_rate_is_kept_in_simulated_time() {
    let scene = Scene::new(&TEN, 0.1);
    let tasks: Vec<_> = (0..110)
        .map(|_| {
            let scene = Arc::clone(&scene);
            tokio::spawn(async move { scene.pass("t", Priority::Interactive, PATIENT).await.unwrap() })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.push(task.await.unwrap());
    }
    waits.sort();
    assert_eq!(waits.iter().filter(|w| w.is_zero()).count(), 10);
    for (at, wait) in waits.iter().enumerate() {
        assert!(*wait + Duration::from_millis(1) >= Duration::from_millis(100) * (at as u32).saturating_sub(9));
    }
    assert!(*waits.last().unwrap() < Duration::from_millis(10_200), "{:?}", waits.last());
    assert_eq!(scene.waiting(), 0);
}

// Fails when a wait past the deadline is slept before it is refused.
#[tokio::test(start_paused = true)]
async fn a_wait_longer_than_the_deadline_is_refused_at_once_and_takes_no_unit() {
    let scene = Scene::new(&ONE, 0.0);
    let start = Instant::now();
    scene.pass("t", Priority::Interactive, PATIENT).await.unwrap();
    let refusal = scene.pass("t", Priority::Interactive, Duration::from_millis(900)).await.unwrap_err();
    assert_eq!(refusal, Refusal { wait: Duration::from_secs(1), full: false });
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(scene.pass("t", Priority::Interactive, Duration::from_millis(1_000)).await, Ok(Duration::from_secs(1)));
    scene.pause(Duration::from_secs(30));
    let refusal = scene.pass("t", Priority::Interactive, Duration::from_secs(29)).await.unwrap_err();
    assert_eq!(refusal.wait, Duration::from_secs(30));
}

// Fails when the queue in front is not counted.
#[tokio::test(start_paused = true)]
async fn the_queue_in_front_counts_towards_the_wait() {
    let scene = Scene::new(&ONE, 0.0);
    scene.pass("t", Priority::Interactive, PATIENT).await.unwrap();
    for _ in 0..5 {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move { scene.pass("t", Priority::Interactive, PATIENT).await });
        tokio::task::yield_now().await;
    }
    // One holds the turn and four wait behind it.
    let refusal = scene.pass("t", Priority::Interactive, Duration::from_millis(5_900)).await.unwrap_err();
    assert_eq!(refusal.wait, Duration::from_secs(6));
    // Another tenant has its turn after the holder and one of the four.
    let refusal = scene.pass("u", Priority::Interactive, Duration::from_millis(2_900)).await.unwrap_err();
    assert_eq!(refusal.wait, Duration::from_secs(3));
    let waited = scene.pass("u", Priority::Interactive, Duration::from_millis(3_000)).await;
    assert_eq!(waited, Ok(Duration::from_secs(3)));
}

// Fails when a later, shorter pause replaces a longer one.
#[tokio::test(start_paused = true)]
async fn a_pause_never_shrinks() {
    let scene = Scene::new(&TEN, 0.0);
    scene.pause(Duration::from_secs(60));
    scene.pause(Duration::from_secs(1));
    assert_eq!(scene.pass("t", Priority::Interactive, PATIENT).await, Ok(Duration::from_secs(60)));
}

// Fails when background calls may spend the reserve.
#[tokio::test(start_paused = true)]
async fn background_leaves_the_reserve_to_interactive_calls() {
    let scene = Scene::new(&TEN, 0.3);
    let at_once = Duration::ZERO;
    for _ in 0..7 {
        assert!(scene.pass("t", Priority::Background, at_once).await.is_ok());
    }
    assert!(scene.pass("t", Priority::Background, at_once).await.is_err());
    for _ in 0..3 {
        assert!(scene.pass("t", Priority::Interactive, at_once).await.is_ok());
    }
    assert!(scene.pass("t", Priority::Interactive, at_once).await.is_err());
    // Four units must come back before background may take one and leave three.
    assert_eq!(scene.pass("t", Priority::Background, PATIENT).await, Ok(Duration::from_millis(400)));
}

// Fails when a background caller that waits is not overtaken.
#[tokio::test(start_paused = true)]
async fn interactive_calls_overtake_background_calls_that_wait() {
    let scene = Scene::new(&ONE, 0.1);
    scene.pass("t", Priority::Interactive, PATIENT).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for priority in [Priority::Background, Priority::Interactive, Priority::Interactive] {
        let (scene, order) = (Arc::clone(&scene), Arc::clone(&order));
        tasks.push(tokio::spawn(async move {
            scene.pass("t", priority, PATIENT).await.unwrap();
            order.lock().unwrap().push(priority);
        }));
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [Priority::Interactive, Priority::Interactive, Priority::Background]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses() {
    let scene = Scene::new(&ONE, 0.0);
    scene.pass("t", Priority::Interactive, PATIENT).await.unwrap();
    for _ in 0..1_001 {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move { scene.pass("t", Priority::Interactive, PATIENT).await });
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(scene.pass("t", Priority::Interactive, PATIENT).await.unwrap_err().full);
}

const AT_ONCE: Duration = Duration::ZERO;

// Fails when units are taken of one limit before the other is known to have some.
#[tokio::test(start_paused = true)]
async fn a_call_takes_of_all_its_limits_or_of_none() {
    let world = World::new(0.0);
    let account = world.lane(&ONE);
    let operations = [world.operation(&TEN, &[&account]), world.operation(&TEN, &[&account])];
    operations[0].pass("t", Priority::Interactive, AT_ONCE).await.unwrap();
    for operation in &operations {
        let refusal = operation.pass("t", Priority::Interactive, Duration::from_millis(999)).await.unwrap_err();
        assert_eq!(refusal, Refusal { wait: Duration::from_secs(1), full: false });
    }
    // What is left of their own limits, seen without the account's.
    for (operation, left) in operations.iter().zip([9, 10]) {
        let way = Way { own: Arc::clone(&operation.way.own), key: operation.way.key.clone(), wider: Vec::new() };
        assert_eq!(Scene { way, origin: world.origin }.left().await, left);
    }
    // The other way round: an own limit that is used up takes nothing of the account's.
    let account = world.lane(&TEN);
    let narrow = world.operation(&ONE, &[&account]);
    narrow.pass("t", Priority::Interactive, AT_ONCE).await.unwrap();
    assert!(narrow.pass("t", Priority::Interactive, AT_ONCE).await.is_err());
    assert_eq!(world.operation(&TEN, &[&account]).left().await, 9);
}

// Fails when a pause of the account stops one operation only, or one of an operation stops the account.
#[tokio::test(start_paused = true)]
async fn a_pause_stops_those_who_share_what_is_paused() {
    let world = World::new(0.0);
    let (account, client) = (world.lane(&TEN), world.lane(&TEN));
    let one = world.operation(&TEN, &[&account, &client]);
    let other = world.operation(&TEN, &[&account, &client]);
    let elsewhere = world.operation(&TEN, &[&client]);
    let seconds = Duration::from_secs;
    world.pause(&account, seconds(30));
    one.pause(seconds(60));
    for (operation, wait) in [(&elsewhere, seconds(0)), (&other, seconds(30)), (&one, seconds(30))] {
        let start = Instant::now();
        if !wait.is_zero() {
            // Known at once, whichever limit it is that takes longest.
            let refusal = operation.pass("t", Priority::Interactive, wait - seconds(1)).await.unwrap_err();
            assert_eq!((refusal.wait, start.elapsed()), (wait, AT_ONCE));
        }
        assert_eq!(operation.pass("t", Priority::Interactive, wait).await, Ok(wait));
    }
}

// Fails when a caller keeps its turn at the account while its own operation is paused.
#[tokio::test(start_paused = true)]
async fn one_paused_operation_does_not_hold_up_the_others() {
    let world = World::new(0.0);
    let account = world.lane(&ONE);
    let paused = world.operation(&TEN, &[&account]);
    let busy = world.operation(&TEN, &[&account]);
    busy.pass("t", Priority::Interactive, AT_ONCE).await.unwrap();
    // Waits for the account, with its turn, when the pause of its own comes.
    let waiting = Arc::clone(&paused);
    let waiting = tokio::spawn(async move { waiting.pass("t", Priority::Interactive, PATIENT).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    paused.pause(Duration::from_secs(60));
    for _ in 0..50 {
        busy.pass("t", Priority::Interactive, Duration::from_millis(1_500)).await.unwrap();
    }
    assert_eq!(waiting.await.unwrap(), Ok(Duration::from_millis(60_500)));
}

// Fails when the queue of one operation goes before the others' at the account.
#[tokio::test(start_paused = true)]
async fn operations_take_turns_at_the_account() {
    let world = World::new(0.1);
    let account = world.lane(&ONE);
    let operations = [world.operation(&TEN, &[&account]), world.operation(&TEN, &[&account])];
    operations[0].pass("t", Priority::Interactive, AT_ONCE).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    let mut callers = vec![(0, Priority::Interactive); 20];
    callers.extend([(1, Priority::Background), (1, Priority::Interactive)]);
    for (which, priority) in callers {
        let (operation, order) = (Arc::clone(&operations[which]), Arc::clone(&order));
        tasks.push(tokio::spawn(async move {
            operation.pass("t", priority, PATIENT).await.unwrap();
            order.lock().unwrap().push((which, priority));
        }));
        tokio::task::yield_now().await;
    }
    // The queue in front counts at the account too: twenty of them, and each takes a second.
    let refusal = operations[0].pass("t", Priority::Interactive, Duration::from_secs(19)).await.unwrap_err();
    assert!(refusal.wait >= Duration::from_secs(20), "{refusal:?}");
    for task in tasks {
        task.await.unwrap();
    }
    let order = order.lock().unwrap();
    let place = |priority| order.iter().position(|caller| *caller == (1, priority)).unwrap();
    assert!(place(Priority::Interactive) <= 2, "{order:?}");
    assert_eq!(place(Priority::Background), 21, "{order:?}");
    assert!(operations.iter().all(|operation| operation.waiting() == 0));
}

// Fails when unused units are lost, or when they are given back after they came back by themselves.
#[tokio::test(start_paused = true)]
async fn units_that_were_not_used_are_given_back_once() {
    let world = World::new(0.0);
    let account = world.lane(&TEN);
    let operation = world.operation(&TEN, &[&account]);
    for _ in 0..5 {
        let kept = operation.units("t", Priority::Interactive, AT_ONCE).await.unwrap();
        assert_eq!(operation.left().await, 9);
        drop(kept);
        assert_eq!(operation.left().await, 1, "the one that was given back");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Held for longer than a unit takes to come back: the bucket is full without it.
    let kept = operation.units("t", Priority::Interactive, AT_ONCE).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(operation.left().await, 10);
    drop(kept);
    assert_eq!(operation.left().await, 0, "more than the bucket holds went out at once");
}

// Fails when something else is given back than was charged.
#[tokio::test(start_paused = true)]
async fn what_is_given_back_is_what_was_charged() {
    let world = World::new(0.0);
    let account = world.lane(&TEN);
    let operation = world.operation(&TEN, &[&account]);
    for (unit, may_raise) in [(1_000_000_000, false), (10_000_000, true), (100_000_000, true)] {
        account.learn(unit, may_raise);
        let unused = operation.units("t", Priority::Interactive, AT_ONCE).await.unwrap();
        let now = nanos_since(world.origin, Instant::now());
        assert!(!account.is_rested(now + unit - 1) && account.is_rested(now + unit));
        drop(unused);
        assert!(account.is_rested(now), "{unit}");
    }
}

// Fails when whoever comes takes what is there, though others wait for it.
#[tokio::test(start_paused = true)]
async fn a_newcomer_does_not_overtake_those_who_wait() {
    let world = World::new(0.0);
    let account = world.lane(&ONE);
    let operations = [world.operation(&TEN, &[&account]), world.operation(&TEN, &[&account])];
    let unused = operations[0].units("t", Priority::Interactive, AT_ONCE).await.unwrap();
    let waiting = Arc::clone(&operations[0]);
    let waiting = tokio::spawn(async move { waiting.pass("t", Priority::Interactive, PATIENT).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(unused);
    let newcomer = operations[1].pass("t", Priority::Interactive, PATIENT).await;
    assert_eq!(waiting.await.unwrap(), Ok(Duration::from_secs(1)));
    assert_eq!(newcomer, Ok(Duration::from_millis(1_500)));
}

// Fails when turns are taken in different orders, a cancelled caller leaves something behind, or the sum of the
// operations is not held to what they share.
#[tokio::test(start_paused = true)]
async fn the_sum_of_all_operations_keeps_what_they_share() {
    for seed in 0..30 {
        let random = Arc::new(SeededRandom::new(seed));
        let world = World::new(0.2);
        let (account, client) = (world.lane(&TEN), world.lane(&TEN));
        let operations: Vec<_> = [&[&account][..], &[&account, &client], &[&client], &[&account, &client]]
            .into_iter()
            .map(|shared| world.operation(if !random.bits().is_multiple_of(2) { &TEN } else { &ONE }, shared))
            .collect();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..300)
            .map(|n| {
                let (random, sent) = (Arc::clone(&random), Arc::clone(&sent));
                let which = n % operations.len();
                let operation = Arc::clone(&operations[which]);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(random.bits() % 10_000)).await;
                    if random.bits() % 40 == 0 {
                        operation.pause(Duration::from_millis(random.bits() % 3_000));
                    }
                    let tenant = format!("t{}", random.bits() % 3);
                    let priority = if random.bits() % 3 == 0 { Priority::Background } else { Priority::Interactive };
                    let deadline = Duration::from_millis(random.bits() % 20_000);
                    let patience = Duration::from_millis(random.bits() % 20_000);
                    let begun = Instant::now();
                    let passed = tokio::time::timeout(patience, operation.units(&tenant, priority, deadline)).await;
                    if let Ok(Ok((units, at))) = passed {
                        assert!(at - begun <= deadline, "seed {seed}: after its deadline");
                        if random.bits() % 5 > 0 {
                            units.spend();
                            sent.lock().unwrap().push((at, which));
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let sent = std::mem::take(&mut *sent.lock().unwrap());
        assert!(sent.len() > 50, "seed {seed}: {} sent", sent.len());
        // Ten at once and ten a second: at most twenty in any second.
        let peak = |who: &[usize]| {
            let mut times: Vec<_> = sent.iter().filter(|(_, which)| who.contains(which)).map(|(at, _)| *at).collect();
            times.sort();
            let soon = |from: Instant, at: Instant| at >= from && at - from < Duration::from_secs(1);
            times.iter().map(|from| times.iter().filter(|at| soon(*from, **at)).count()).max().unwrap_or(0)
        };
        for who in [&[0, 1, 3][..], &[1, 2, 3]] {
            assert!(peak(who) <= 20, "seed {seed}: {} of {who:?} in a second", peak(who));
        }
        assert!(operations.iter().all(|operation| operation.waiting() == 0), "seed {seed}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let now = nanos_since(world.origin, Instant::now());
        assert!(
            operations.iter().all(|operation| operation.way.lanes().all(|lane| lane.is_rested(now))),
            "seed {seed}"
        );
    }
}
