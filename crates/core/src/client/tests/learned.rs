//! Limits learned from answers, over the whole pipeline.

use super::*;
use crate::call::Scope;

fn learning(window: Option<Duration>, may_raise: bool) -> Profile {
    let mut profile = profile();
    let headers = LimitHeaders::x_rate_limit(Reset::Delta);
    profile.learned = Some(Learned { headers, scope: Scope::Operation, window, may_raise });
    profile
}

fn told(status: u16, limit: u32, remaining: u32, reset: u32) -> Reply {
    let headers = vec![
        ("x-ratelimit-limit", limit.to_string()),
        ("x-ratelimit-remaining", remaining.to_string()),
        ("x-ratelimit-reset", reset.to_string()),
    ];
    Reply::With(status, headers, Bytes::new())
}

const MINUTE: Option<Duration> = Some(Duration::from_secs(60));

// Fails when a limit that is used up is run into, or stops more than its own lane.
#[tokio::test(start_paused = true)]
async fn a_limit_that_is_used_up_stops_its_lane_until_it_begins_anew() {
    let provider = Provider::new(|n, _| if n == 0 { told(200, 100, 0, 40) } else { told(200, 100, 99, 40) });
    let scene = Scene::with(learning(MINUTE, false), &provider, fixed());
    let start = Instant::now();
    scene.send(&READ).await.unwrap();
    let hurried = call(&READ).with_deadline(start + Duration::from_secs(39));
    let error = scene.client.send(request(hurried)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Throttled, Some(Duration::from_secs(40))));
    scene.client.send(request(Call::new(&READ, "other".into(), "t".into()))).await.unwrap();
    scene.send(&PUT).await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::ZERO);
    let patient =
        Operation { overall_timeout: Duration::from_secs(60), ..operation("things.read", Replay::Safe, &WIDE) };
    scene.send(Box::leak(Box::new(patient))).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(40));
}

// Fails when a learned limit is not kept, or one above the bucket's is believed unasked.
#[tokio::test(start_paused = true)]
async fn a_learned_limit_lowers_the_rate_and_raises_it_only_if_it_may() {
    // The bucket grants five a second.
    for (limit, may_raise, window, rate) in [
        (60, false, MINUTE, 1),
        (120, true, MINUTE, 2),
        (3_000, false, MINUTE, 5),
        (3_000, true, MINUTE, 50),
        (60, false, None, 5),
        (0, false, MINUTE, 5),
    ] {
        let provider = Provider::new(move |_, _| told(200, limit, 5, 9));
        let scene = Arc::new(Scene::with(learning(window, may_raise), &provider, fixed()));
        scene.send(&SLOW_LANE).await.unwrap();
        sleep(Duration::from_secs(600)).await;
        together((0..20 * rate).map(|_| {
            let scene = Arc::clone(&scene);
            async move { scene.send(&SLOW_LANE).await }
        }))
        .await
        .into_iter()
        .for_each(|sent| drop(sent.unwrap()));
        let times: Vec<_> = provider.seen().iter().skip(1).map(|seen| seen.at).collect();
        let took = (*times.last().unwrap() - times[0]).as_secs_f64();
        let steady = f64::from(20 * rate - times.iter().filter(|at| **at == times[0]).count() as u32) / took;
        assert!((steady / f64::from(rate) - 1.0).abs() < 0.05, "{limit} {may_raise}: {steady} a second");
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttle_without_a_wait_waits_for_the_reset() {
    let provider = Provider::in_turn(vec![told(429, 100, 3, 7), told(200, 100, 2, 1)]);
    let scene = Scene::with(learning(None, false), &provider, fixed());
    scene.send(&BLIND).await.unwrap();
    let seen = provider.seen();
    assert!(seen[1].at - seen[0].at >= Duration::from_secs(7), "{:?}", seen[1].at - seen[0].at);
    // A provider that is not said to tell its limits so is not heeded.
    let provider = Provider::in_turn(vec![told(200, 1, 0, 60)]);
    let scene = Scene::new(&provider);
    for _ in 0..10 {
        scene.send(&READ).await.unwrap();
    }
    assert_eq!(provider.count(), 10);
}
