//! The demo's story in small: what the first command of the README tells a newcomer is true for more than one seed.

use palisade_hub::demo::{Progress, Story, tell};
use palisade_tests::seeds::{Repeat, seeds};

/// Fails when any promise the demo shows is broken; the report names it.
#[test]
fn a_small_demo_holds_every_promise() {
    for seed in seeds(11..13) {
        let _repeat = Repeat::with("demo::a_small_demo_holds_every_promise", seed);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let story = Story {
                seed,
                customers: 300,
                webhooks: 150,
                listen: ([127, 0, 0, 1], 0).into(),
                folder: folder.path().to_owned(),
            };
            let told = tell(&story, &Progress::silent()).await.unwrap();
            assert!(told.report.held, "{}", told.report.to_text());
            told.end().await.unwrap();
        });
    }
}
