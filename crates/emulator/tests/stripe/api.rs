//! Objects, lists, versions, expansions, declines: the API as callers see it.

use palisade_emulator::stripe::Seed;
use serde_json::json;

use super::support::{NEW, OLD, delete, get, id, ids, offline, post, raw, seed, shop, types};

#[tokio::test]
async fn customers_live_and_die() {
    let stripe = offline();
    let made =
        post(&stripe, "/v1/customers", "email=a%40example.com&name=Ada&metadata[k]=v&address[city]=Paris").await.ok();
    assert_eq!((made["email"].as_str(), made["metadata"]["k"].as_str()), (Some("a@example.com"), Some("v")));
    assert_eq!((made["address"]["city"].as_str(), made["address"]["line1"].is_null()), (Some("Paris"), true));
    let path = format!("/v1/customers/{}", id(&made));
    let changed = post(&stripe, &path, "name=&metadata[k]=&metadata[n]=1").await.ok();
    assert!(changed["name"].is_null());
    assert_eq!(changed["metadata"], json!({ "n": "1" }));
    assert_eq!(get(&stripe, &path).await.ok(), changed);
    assert_eq!(delete(&stripe, &path).await.ok(), json!({ "id": id(&made), "object": "customer", "deleted": true }));
    assert_eq!(get(&stripe, &path).await.ok()["deleted"], true);
    get(&stripe, "/v1/customers/cus_nobody").await.refused(404, "resource_missing");
    post(&stripe, &path, "name=x").await.refused(404, "resource_missing");
    assert!(stripe.truth("customers").is_empty());
    let events = stripe.events();
    assert_eq!(types(&stripe), ["customer.created", "customer.updated", "customer.deleted"]);
    assert_eq!(events[1]["data"]["previous_attributes"], json!({ "name": "Ada", "metadata": { "k": "v", "n": null } }));
    assert!(events[0]["request"]["id"].as_str().unwrap().starts_with("req_"));
}

#[tokio::test]
async fn bad_fields_are_refused_without_a_trace() {
    let stripe = offline();
    post(&stripe, "/v1/customers", "emial=x").await.refused(400, "parameter_unknown");
    post(&stripe, "/v1/customers", "email=nonsense").await.refused(400, "email_invalid");
    post(&stripe, "/v1/customers", "balance=x").await.refused(400, "parameter_invalid_integer");
    post(&stripe, "/v1/subscriptions", "items[0][price]=p").await.refused(400, "parameter_missing");
    let error = post(&stripe, "/v1/subscriptions", "customer=cus_none&items[0][price]=p")
        .await
        .refused(400, "resource_missing");
    assert_eq!(error["param"], "customer");
    let reply = raw(&stripe, "POST", "/v1/customers", "{}", &[("content-type", "application/json")]).await.unwrap();
    assert_eq!(reply.status, 400);
    assert_eq!(get(&stripe, "/v1/nonsense").await.status, 404);
    assert!(stripe.events().is_empty());
}

#[tokio::test]
async fn lists_page_newest_first() {
    let stripe = offline();
    stripe.populate(&seed(250));
    let mut seen = Vec::new();
    let mut path = "/v1/customers?limit=100".to_owned();
    loop {
        let page = get(&stripe, &path).await.ok();
        seen.extend(ids(&page));
        if page["has_more"] == false {
            break;
        }
        path = format!("/v1/customers?limit=100&starting_after={}", seen.last().unwrap());
    }
    let truth = stripe.truth("customers");
    assert_eq!(seen.len(), 250);
    assert!(seen.iter().all(|id| truth.contains_key(id)));
    let created: Vec<i64> = seen.iter().map(|id| truth[id]["created"].as_i64().unwrap()).collect();
    assert!(created.windows(2).all(|pair| pair[0] >= pair[1]), "newest first");
    let back = get(&stripe, &format!("/v1/customers?limit=5&ending_before={}", seen[20])).await.ok();
    assert_eq!(ids(&back), seen[15..20]);
    assert_eq!(back["has_more"], true);
    let window = format!("/v1/customers?limit=100&created[gte]={}&created[lt]={}", created[30], created[10]);
    let page = ids(&get(&stripe, &window).await.ok());
    assert_eq!(page, seen[11..31]);
    assert_eq!(get(&stripe, "/v1/customers").await.ok()["data"].as_array().unwrap().len(), 10);
    let expanded =
        get(&stripe, "/v1/subscriptions?limit=3&expand[]=data.customer&expand[]=data.latest_invoice.payments")
            .await
            .ok();
    assert!(expanded["data"][0]["customer"]["email"].is_string(), "{expanded}");
    assert_eq!(expanded["data"][0]["latest_invoice"]["payments"]["object"], "list");
    assert_eq!(get(&stripe, "/v1/subscriptions?expand[]=customer").await.status, 400);
    get(&stripe, "/v1/customers?limit=101").await.refused(400, "parameter_invalid_integer");
    assert_eq!(
        get(&stripe, "/v1/customers?starting_after=cus_x").await.refused(400, "resource_missing")["param"],
        "starting_after"
    );
    stripe.delete_customer(&seen[3]).unwrap();
    get(&stripe, &format!("/v1/customers?starting_after={}", seen[3])).await.refused(400, "resource_missing");
}

#[tokio::test]
async fn populating_is_repeatable_and_sized() {
    let (one, two) = (offline(), offline());
    one.populate(&seed(50));
    two.populate(&seed(50));
    for stream in ["customers", "products", "prices", "subscriptions", "invoices", "charges"] {
        assert_eq!(one.truth(stream), two.truth(stream), "{stream}");
        assert!(!one.truth(stream).is_empty(), "{stream}");
    }
    for customer in one.truth("customers").values() {
        let size = serde_json::to_vec(customer).unwrap().len();
        assert!((1024..1040).contains(&size), "{size}");
    }
    assert!(one.events().is_empty());
    one.populate(&Seed { customers: 2, with_events: true, salt: 1, ..Seed::default() });
    assert_eq!(one.truth("customers").len(), 52);
    assert!(one.events().len() <= 2, "older than 30 days is dropped");
}

#[tokio::test]
async fn subscriptions_start_in_both_shapes() {
    let stripe = offline();
    let (customer, price) = shop(&stripe);
    let form = format!(
        "customer={customer}&items[0][price]={price}&payment_behavior=default_incomplete&expand[]=latest_invoice."
    );
    let old = raw(&stripe, "POST", "/v1/subscriptions", &format!("{form}payment_intent"), &[("stripe-version", OLD)])
        .await
        .unwrap();
    assert_eq!(old.header("stripe-version"), OLD);
    let old = old.ok();
    assert_eq!(old["status"], "incomplete");
    let intent = &old["latest_invoice"]["payment_intent"];
    assert_eq!(intent["status"], "requires_payment_method");
    assert!(intent["client_secret"].as_str().unwrap().starts_with(intent["id"].as_str().unwrap()));
    assert_eq!(old["latest_invoice"]["subscription"], old["id"]);
    assert!(old["current_period_end"].as_i64() > old["current_period_start"].as_i64());
    assert!(old["items"]["data"][0].get("current_period_end").is_none());

    let new = raw(
        &stripe,
        "POST",
        "/v1/subscriptions",
        &format!("{form}confirmation_secret&expand[]=pending_setup_intent"),
        &[("stripe-version", NEW)],
    )
    .await
    .unwrap()
    .ok();
    assert_eq!(new["latest_invoice"]["confirmation_secret"]["type"], "payment_intent");
    assert_eq!(new["latest_invoice"]["parent"]["subscription_details"]["subscription"], new["id"]);
    assert!(new.get("current_period_end").is_none() && new["latest_invoice"].get("payment_intent").is_none());
    assert!(new["items"]["data"][0]["current_period_end"].is_i64());
    let refused = raw(
        &stripe,
        "GET",
        &format!("/v1/subscriptions/{}?expand[]=latest_invoice.payment_intent", id(&new)),
        "",
        &[("stripe-version", NEW)],
    )
    .await
    .unwrap();
    assert_eq!(refused.status, 400);
    assert!(refused.json["error"]["message"].as_str().unwrap().contains("cannot be expanded (payment_intent)"));

    let intent = stripe
        .call("GET", &format!("/v1/invoices/{}", id(&new["latest_invoice"])), &[("expand[]", "payments")])
        .unwrap();
    let intent = intent["payments"]["data"][0]["payment"]["payment_intent"].as_str().unwrap().to_owned();
    post(&stripe, &format!("/v1/payment_intents/{intent}/confirm"), "payment_method=pm_card_visa").await.ok();
    let paid = get(&stripe, &format!("/v1/subscriptions/{}?expand[]=latest_invoice", id(&new))).await.ok();
    assert_eq!((paid["status"].as_str(), paid["latest_invoice"]["status"].as_str()), (Some("active"), Some("paid")));
    let trial = post(&stripe, "/v1/subscriptions", &format!("customer={customer}&items[0][price]={price}&trial_period_days=7&payment_behavior=default_incomplete&expand[]=pending_setup_intent")).await.ok();
    assert_eq!(trial["status"], "trialing");
    assert!(trial["pending_setup_intent"]["client_secret"].is_string());
}

#[tokio::test]
async fn subscriptions_renew_cancel_and_end() {
    let stripe = offline();
    let (customer, price) = shop(&stripe);
    let subscription = id(&stripe.create_subscription(&customer, &price).unwrap());
    let path = format!("/v1/subscriptions/{subscription}");
    assert_eq!(get(&stripe, &path).await.ok()["status"], "active");
    let before = get(&stripe, &path).await.ok();
    let renewed = stripe.advance_subscription(&subscription).unwrap();
    assert_eq!(renewed["items"]["data"][0]["current_period_start"], before["items"]["data"][0]["current_period_end"]);
    assert_ne!(renewed["latest_invoice"], before["latest_invoice"]);
    let set = post(&stripe, &path, "cancel_at_period_end=true").await.ok();
    assert_eq!(set["cancel_at"], renewed["items"]["data"][0]["current_period_end"]);
    let event = stripe.events().pop().unwrap();
    assert_eq!(event["type"], "customer.subscription.updated");
    assert_eq!(event["data"]["previous_attributes"]["cancel_at_period_end"], false);
    assert_eq!(post(&stripe, &path, "cancel_at_period_end=false").await.ok()["cancel_at"], json!(null));
    assert_eq!(delete(&stripe, &path).await.ok()["status"], "canceled");
    assert_eq!(stripe.events().pop().unwrap()["type"], "customer.subscription.deleted");
    delete(&stripe, &path).await.refused(404, "resource_missing");
    assert!(ids(&get(&stripe, "/v1/subscriptions").await.ok()).is_empty());
    assert_eq!(ids(&get(&stripe, "/v1/subscriptions?status=all").await.ok()), [subscription.as_str()]);
    assert!(stripe.truth("subscriptions").contains_key(&subscription));
    let other = id(&stripe
        .call(
            "POST",
            "/v1/subscriptions",
            &[
                ("customer", &customer),
                ("items[0][price]", &price),
                ("default_payment_method", "pm_card_visa"),
                ("metadata[a]", "b"),
            ],
        )
        .unwrap());
    stripe.delete_customer(&customer).unwrap();
    assert_eq!(stripe.truth("subscriptions")[&other]["status"], "canceled");
}

#[tokio::test]
async fn cards_decline_by_name() {
    let stripe = offline();
    let table = [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline", "try_again_later"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds", "try_again_later"),
        ("pm_card_chargeDeclinedLostCard", "card_declined", "lost_card", "do_not_try_again"),
        ("pm_card_visa_chargeDeclinedStolenCard", "card_declined", "stolen_card", "do_not_try_again"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card", "confirm_card_data"),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc", "incorrect_cvc", "confirm_card_data"),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", "processing_error", "try_again_later"),
        ("pm_decline_do_not_honor", "card_declined", "do_not_honor", "try_again_later"),
    ];
    for (method, code, decline, advice) in table {
        let reply = post(
            &stripe,
            "/v1/payment_intents",
            &format!("amount=900&currency=usd&confirm=true&payment_method={method}"),
        )
        .await;
        let error = reply.refused(402, code);
        assert_eq!(
            (error["type"].as_str(), error["decline_code"].as_str(), error["advice_code"].as_str()),
            (Some("card_error"), Some(decline), Some(advice)),
            "{method}"
        );
        assert!(error["charge"].as_str().unwrap().starts_with("ch_"));
        assert_eq!(error["payment_intent"]["status"], "requires_payment_method");
        assert_eq!(error["payment_intent"]["last_payment_error"]["decline_code"], decline);
    }
    post(&stripe, "/v1/charges", "amount=900&currency=usd&source=tok_chargeDeclined")
        .await
        .refused(402, "card_declined");
    let action = post(
        &stripe,
        "/v1/payment_intents",
        "amount=900&currency=usd&confirm=true&payment_method=pm_card_authenticationRequired",
    )
    .await
    .ok();
    assert_eq!(action["status"], "requires_action");
    let fine = post(
        &stripe,
        "/v1/payment_intents",
        "amount=900&currency=usd&confirm=true&payment_method=pm_card_visa&expand[]=latest_charge",
    )
    .await
    .ok();
    assert_eq!((fine["status"].as_str(), fine["latest_charge"]["paid"].as_bool()), (Some("succeeded"), Some(true)));
}

#[tokio::test]
async fn refunds_stop_at_the_charge() {
    let stripe = offline();
    let intent =
        post(&stripe, "/v1/payment_intents", "amount=900&currency=usd&confirm=true&payment_method=pm_card_visa")
            .await
            .ok();
    let charge = intent["latest_charge"].as_str().unwrap();
    assert_eq!(post(&stripe, "/v1/refunds", &format!("charge={charge}&amount=300")).await.ok()["amount"], 300);
    post(&stripe, "/v1/refunds", &format!("charge={charge}&amount=601")).await.refused(400, "charge_already_refunded");
    let rest = post(&stripe, "/v1/refunds", &format!("payment_intent={}&expand[]=charge", id(&intent))).await.ok();
    assert_eq!((rest["amount"].as_i64(), rest["charge"]["refunded"].as_bool()), (Some(600), Some(true)));
    post(&stripe, "/v1/refunds", &format!("charge={charge}")).await.refused(400, "charge_already_refunded");
    assert_eq!(stripe.events().pop().unwrap()["type"], "charge.refunded");
}

#[tokio::test]
async fn invoices_are_drafted_finalised_paid_and_voided() {
    let stripe = offline();
    let (customer, _) = shop(&stripe);
    let invoice = post(&stripe, "/v1/invoices", &format!("customer={customer}")).await.ok();
    let path = format!("/v1/invoices/{}", id(&invoice));
    post(
        &stripe,
        "/v1/invoiceitems",
        &format!("customer={customer}&invoice={}&amount=500&currency=usd&description=Work", id(&invoice)),
    )
    .await
    .ok();
    let open = post(&stripe, &format!("{path}/finalize"), "").await.ok();
    assert_eq!((open["status"].as_str(), open["amount_due"].as_i64()), (Some("open"), Some(500)));
    post(&stripe, &format!("{path}/pay"), "payment_method=pm_card_chargeDeclined").await.refused(402, "card_declined");
    assert_eq!(stripe.events().pop().unwrap()["type"], "invoice.payment_failed");
    let paid = post(&stripe, &format!("{path}/pay"), "payment_method=pm_card_visa").await.ok();
    assert_eq!((paid["status"].as_str(), paid["amount_remaining"].as_i64()), (Some("paid"), Some(0)));
    let old =
        raw(&stripe, "GET", &format!("{path}?expand[]=charge"), "", &[("stripe-version", OLD)]).await.unwrap().ok();
    assert_eq!((old["paid"].as_bool(), old["charge"]["invoice"].as_str()), (Some(true), invoice["id"].as_str()));
    delete(&stripe, &path).await.refused(400, "invoice_not_editable");
    let draft = post(&stripe, "/v1/invoices", &format!("customer={customer}")).await.ok();
    delete(&stripe, &format!("/v1/invoices/{}", id(&draft))).await.ok();
    assert_eq!(stripe.events().pop().unwrap()["type"], "invoice.deleted");
}

#[tokio::test]
async fn checkout_sessions_complete() {
    let stripe = offline();
    let (_, price) = shop(&stripe);
    let form = format!(
        "mode=subscription&line_items[0][price]={price}&line_items[0][quantity]=2&success_url=https://x.example/&customer_email=b@x.org"
    );
    let session = post(&stripe, "/v1/checkout/sessions", &form).await.ok();
    assert_eq!((session["status"].as_str(), session["amount_total"].as_i64()), (Some("open"), Some(1800)));
    assert!(session["url"].as_str().unwrap().starts_with("https://checkout.stripe.com/"));
    let done = stripe.complete_checkout(&id(&session)).unwrap();
    assert_eq!((done["status"].as_str(), done["payment_status"].as_str()), (Some("complete"), Some("paid")));
    assert_eq!(stripe.truth("subscriptions").len(), 1);
    assert_eq!(stripe.events().pop().unwrap()["type"], "checkout.session.completed");
    let lines = get(&stripe, &format!("/v1/checkout/sessions/{}?expand[]=line_items&expand[]=customer", id(&session)))
        .await
        .ok();
    assert_eq!(lines["line_items"]["data"][0]["quantity"], 2);
    assert_eq!(lines["customer"]["email"], "b@x.org");
    assert!(post(&stripe, &format!("/v1/checkout/sessions/{}/expire", id(&session)), "").await.status == 400);
}

#[tokio::test]
async fn events_are_a_feed_for_thirty_days() {
    let stripe = offline();
    tokio::time::pause();
    let first = id(&stripe.create_customer(&[]).unwrap());
    stripe.update_customer(&first, &[("name", "x")]).unwrap();
    shop(&stripe);
    let all = ids(&get(&stripe, "/v1/events?limit=100").await.ok());
    assert_eq!(all.len(), 5);
    let oldest = all.last().unwrap();
    let newer = get(&stripe, &format!("/v1/events?limit=2&ending_before={oldest}")).await.ok();
    assert_eq!(ids(&newer), all[2..4]);
    assert_eq!(ids(&get(&stripe, "/v1/events?type=customer.*").await.ok()).len(), 3);
    assert_eq!(ids(&get(&stripe, "/v1/events?types[]=price.created&types[]=product.created").await.ok()).len(), 2);
    assert!(ids(&get(&stripe, "/v1/events?delivery_success=false").await.ok()).is_empty());
    tokio::time::advance(std::time::Duration::from_secs(31 * 86_400)).await;
    stripe.create_customer(&[]).unwrap();
    assert_eq!(ids(&get(&stripe, "/v1/events").await.ok()).len(), 1);
    assert_eq!(
        get(&stripe, &format!("/v1/events?ending_before={oldest}")).await.refused(400, "resource_missing")["param"],
        "ending_before"
    );
    get(&stripe, &format!("/v1/events/{oldest}")).await.refused(404, "resource_missing");
}

#[tokio::test]
async fn search_finds_by_field() {
    let stripe = offline();
    stripe.populate(&seed(30));
    let found = get(&stripe, "/v1/customers/search?query=email%3A%22customer7%40example.com%22").await.ok();
    assert_eq!(found["object"], "search_result");
    assert_eq!(found["data"][0]["name"], "Customer 7");
    let page = get(&stripe, "/v1/customers/search?query=name~%22Customer%22&limit=20").await.ok();
    assert_eq!((page["data"].as_array().unwrap().len(), page["has_more"].as_bool()), (20, Some(true)));
    let next =
        format!("/v1/customers/search?query=name~%22Customer%22&limit=20&page={}", page["next_page"].as_str().unwrap());
    assert_eq!(get(&stripe, &next).await.ok()["data"].as_array().unwrap().len(), 10);
    assert_eq!(
        get(&stripe, "/v1/customers?email=customer7@example.com").await.ok()["data"].as_array().unwrap().len(),
        1
    );
    assert_eq!(get(&stripe, "/v1/customers/search?query=nonsense").await.status, 400);
}

#[tokio::test]
async fn random_mutations_keep_a_consistent_world() {
    let stripe = offline();
    stripe.populate(&seed(40));
    let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(3);
    for _ in 0..400 {
        let event = stripe.random_mutation(&mut rng);
        assert!(event.starts_with("evt_"));
    }
    for (kind, stream) in [("customer", "customers"), ("price", "prices"), ("invoice", "invoices")] {
        for (id, object) in stripe.truth(stream) {
            assert_eq!(object["object"], kind);
            assert_eq!(get(&stripe, &format!("/v1/{stream}/{id}")).await.ok(), object);
        }
    }
    assert!(types(&stripe).iter().collect::<std::collections::BTreeSet<_>>().len() > 12);
}
