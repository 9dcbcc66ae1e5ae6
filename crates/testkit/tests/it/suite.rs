//! The sound adapter keeps every promise, and each check finds the defects it is for.

use palisade_testkit::conformance::{self, CHECKS, Subject, Verdict};
use palisade_testkit::fake::{Fake, call};

use super::defects::{DEFECTS, broken};
use super::subject::{PARCEL, sound};
use crate::acme::client::{Acme, Parcel};

#[tokio::test]
async fn the_examples_client_reads_a_parcel() {
    let fake = Fake::answering(&[PARCEL]);
    let parcel = Acme::new(fake.clone()).retrieve("p001").await.unwrap();
    assert_eq!(parcel, Parcel { id: "p001".to_owned(), to: "Street 1".to_owned() });
    assert_eq!(call(&fake.only()).operation.name, "parcels.retrieve");
}

/// The example of `docs/adapters.md`: it passes.
#[tokio::test(start_paused = true)]
async fn a_sound_adapter_keeps_every_promise() {
    let report = conformance::prove(&sound(), None).await;
    assert_eq!(report.rows().len(), CHECKS.len());
    assert!(report.rows().iter().all(|row| matches!(row.verdict, Verdict::Kept { .. })), "{report}");
}

async fn verdict(subject: &Subject, name: &str) -> Verdict {
    let check = CHECKS.iter().find(|check| check.name == name).expect("the check exists");
    check.run(subject).await
}

/// Fails when a check looks away: it would let the same defect of a real adapter pass.
#[tokio::test(start_paused = true)]
async fn each_check_finds_the_defects_it_is_for() {
    let mut missed = Vec::new();
    for (defect, check) in DEFECTS {
        let found = verdict(&broken(*defect), check).await;
        match found {
            Verdict::Broken(why) if !why.contains("no sample") => println!("{defect:?}: {why}"),
            other => missed.push(format!("{check} misses {defect:?}: {other:?}")),
        }
    }
    assert_eq!(missed, [""; 0]);
    let unproven: Vec<_> =
        CHECKS.iter().map(|check| check.name).filter(|name| DEFECTS.iter().all(|(_, check)| check != name)).collect();
    assert_eq!(unproven, [""; 0], "a check without a defect proves nothing");
}

/// Fails when a check that has nothing to try counts as kept, or what is left out is not shown.
#[tokio::test(start_paused = true)]
async fn what_is_not_tried_is_said() {
    let bare = || Subject::new(|| crate::acme::AcmeProvider, palisade_core::auth::Scheme::Bearer("x".into()));
    let report = conformance::run_all(&bare()).await;
    assert!(report.rows().iter().all(|row| matches!(row.verdict, Verdict::Broken(_))), "{report}");
    let text = report.to_string();
    for wanted in ["Subject::operations", "Subject::call", "Subject::vectors", "Subject::hook", "Subject::stage"] {
        assert!(text.contains(wanted), "the author is not told of {wanted}");
    }
    let excused = bare().not_applicable("every_record_is_read_once", "for a reason").not_applicable("no_such", "x");
    let report = conformance::run_all(&excused).await;
    assert_eq!(report.verdict("every_record_is_read_once"), Some(&Verdict::NotApplicable("for a reason".to_owned())));
    assert!(matches!(report.verdict("no_such"), Some(Verdict::Broken(_))), "a name that is none");
    let json = report.to_json();
    assert_eq!(json["adapter"], "acme");
    assert_eq!(json["rows"].as_array().unwrap().len(), report.rows().len());
}
