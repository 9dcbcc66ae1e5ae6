//! Blank as a subject of the kit: fill in what the BROKEN lines ask for, from the top.

use crate::blank::client::OPERATIONS;
use crate::blank::{Blank, BlankProvider, auth};
use palisade_testkit::conformance::{self, Sample, Subject};

#[tokio::test(start_paused = true)]
#[should_panic(expected = "BROKEN")]
async fn keeps_every_promise_of_the_kit() {
    conformance::prove(&subject(), None).await;
}

fn subject() -> Subject {
    let account = Sample::new("account.retrieve", |transport| async move {
        Blank::new(transport, "conn_1", "tenant_1").account().await
    });
    Subject::new(BlankProvider::new, auth::api_key("a key".into()).unwrap())
        .operations(OPERATIONS)
        .call(account.answered(200, r#"{"name":"Ada"}"#))
}
