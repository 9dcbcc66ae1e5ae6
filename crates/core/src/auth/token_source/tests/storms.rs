//! Many processes and tasks at once, a slow provider, a slow store, and one of them killed.

use super::*;

fn variable(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a seed to repeat is given by hand")]
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// 8 processes × 50 tasks want one token while its single-use refresh token is due; the endpoint takes 20 s, the store
/// is slow, and in most rounds one process is killed at a random moment.
///
/// Fails when a refresh token reaches the provider twice, when a caller gets something that is not valid, when somebody
/// waits for ever, or when a round whose token was lost says anything else.
#[tokio::test(start_paused = true)]
async fn eight_processes_of_fifty_tasks_send_each_refresh_token_once() {
    let seeds = match variable("PALISADE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..variable("PALISADE_SEEDS").unwrap_or(40) + 1,
    };
    let (mut renewed, mut lost, mut killed) = (0, 0, 0);
    for seed in seeds {
        let round = round(seed).await;
        renewed += u32::from(round.renewed);
        lost += u32::from(round.lost);
        killed += u32::from(round.killed);
    }
    println!("{renewed} rounds renewed, {lost} lost and said so, {killed} with a killed process");
}

struct Round {
    renewed: bool,
    lost: bool,
    killed: bool,
}

async fn round(seed: u64) -> Round {
    let repeat = format!(
        "PALISADE_SEED={seed} cargo test -p palisade-core eight_processes_of_fifty_tasks_send_each_refresh_token_once"
    );
    let random = Arc::new(SeededRandom::new(seed));
    let below = |limit: u64| random.bits() % limit;
    let world = World::connected().await;
    *world.provider.delay.lock().unwrap() = Duration::from_secs(10);
    let slow = random.clone();
    world.store.layer.slowed(move |_| Duration::from_millis(slow.bits() % 700));
    let processes: Vec<Arc<Process>> = (0..8).map(|n| Arc::new(world.process(seed * 100 + n))).collect();
    tokio::time::advance(LIFE.mul_f64(0.9 + 0.1 * random.unit())).await;
    let mut callers = JoinSet::new();
    let victim = (below(4) > 0).then(|| below(8) as usize);
    let mut victims_callers = Vec::new();
    for (n, process) in processes.iter().enumerate() {
        for _ in 0..50 {
            let process = process.clone();
            let wait = Duration::from_millis(below(45_000));
            let (provider, repeat) = (world.provider.clone(), repeat.clone());
            let caller = callers.spawn(async move {
                tokio::time::sleep(wait).await;
                let answer = process.token().await;
                // At this moment: it may expire while the others are waited for.
                let valid = answer.as_ref().is_ok_and(|credential| provider.accepts(&sent(credential)));
                assert!(answer.is_err() || valid, "process {n} was given a token that is not valid; {repeat}");
                (n, answer)
            });
            if Some(n) == victim {
                victims_callers.push(caller);
            }
        }
    }
    if let Some(victim) = victim {
        tokio::time::sleep(Duration::from_millis(below(60_000))).await;
        processes[victim].kill();
        victims_callers.iter().for_each(|caller| caller.abort());
    }
    let mut losses = 0;
    let start = tokio::time::Instant::now();
    while let Some(caller) = callers.join_next().await {
        let (n, answer) = match caller {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => continue,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match answer {
            Ok(_) => {}
            Err(error) if error.message() == EndReason::MaybeLost.phrase() => losses += 1,
            Err(error) => panic!("process {n}: not one clear error: {error}; {repeat}"),
        }
    }
    assert!(start.elapsed() < Duration::from_secs(400), "somebody waited {:?}; {repeat}", start.elapsed());
    world.provider.assert_single_use(&repeat);
    assert!(world.provider.requests() <= 1, "{} requests; {repeat}", world.provider.requests());
    // Whoever comes later says the same.
    let later = world.process(seed + 7).token().await;
    let lost = world.row().await.generation == 1 && world.provider.book().uses.values().any(|uses| *uses > 0);
    match later {
        Ok(credential) => {
            world.assert_valid(&credential, &repeat);
            assert!(!lost || world.clock.now() < world.row().await.expires_at.unwrap(), "{repeat}");
        }
        Err(error) => {
            assert_eq!(error.message(), EndReason::MaybeLost.phrase(), "{repeat}");
            assert!(victim.is_some(), "nobody was killed, and yet it is lost; {repeat}");
        }
    }
    assert!(losses == 0 || victim.is_some(), "nobody was killed; {repeat}");
    Round { renewed: world.row().await.generation == 2, lost, killed: victim.is_some() }
}
