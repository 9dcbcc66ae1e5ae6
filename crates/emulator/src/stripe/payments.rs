//! Payment methods, payment intents, charges and refunds, with the card failures that test cards stand for.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use serde_json::{Value, json};

use super::desk::{Desk, known, set_metadata, set_texts};
use super::error::Failure;
use super::form;
use super::objects;
use super::state::{Kind, Links};

/// How a card fails: the error's codes and its message.
#[derive(Debug, Clone)]
pub(crate) struct Decline {
    code: String,
    decline_code: String,
    advice_code: &'static str,
    message: &'static str,
}

/// Gives the failure a decline code stands for.
fn decline(decline_code: &str) -> Decline {
    let (code, advice_code, message) = match decline_code {
        "insufficient_funds" => ("card_declined", "try_again_later", "Your card has insufficient funds."),
        "expired_card" => ("expired_card", "confirm_card_data", "Your card has expired."),
        "incorrect_cvc" | "invalid_cvc" => {
            ("incorrect_cvc", "confirm_card_data", "Your card's security code is incorrect.")
        }
        "incorrect_number" | "invalid_number" => {
            ("incorrect_number", "confirm_card_data", "Your card number is incorrect.")
        }
        "processing_error" => (
            "processing_error",
            "try_again_later",
            "An error occurred while processing your card. Try again in a little bit.",
        ),
        "authentication_required" => (
            "authentication_required",
            "try_again_later",
            "Your card was declined. This transaction requires authentication.",
        ),
        "lost_card" | "stolen_card" | "pickup_card" | "fraudulent" | "do_not_try_again" => {
            ("card_declined", "do_not_try_again", "Your card was declined.")
        }
        "card_velocity_exceeded" => (
            "card_declined",
            "try_again_later",
            "Your card was declined for making repeated attempts too frequently or exceeding its amount limit.",
        ),
        _ => ("card_declined", "try_again_later", "Your card was declined."),
    };
    Decline { code: code.to_owned(), decline_code: decline_code.to_owned(), advice_code, message }
}

/// Gives the decline code that a test payment method or token stands for.
fn decline_of(name: &str) -> Option<String> {
    if let Some(code) = name.strip_prefix("pm_decline_").or_else(|| name.strip_prefix("tok_decline_")) {
        return Some(code.to_owned());
    }
    if name.contains("authenticationRequired") {
        return Some("authentication_required".to_owned());
    }
    if name.ends_with("chargeCustomerFail") || name.ends_with("radarBlock") {
        return Some("generic_decline".to_owned());
    }
    let (_, reason) = name.split_once("chargeDeclined")?;
    let code = match reason {
        "InsufficientFunds" => "insufficient_funds",
        "LostCard" => "lost_card",
        "StolenCard" => "stolen_card",
        "ExpiredCard" => "expired_card",
        "IncorrectCvc" => "incorrect_cvc",
        "ProcessingError" => "processing_error",
        "Fraudulent" => "fraudulent",
        "VelocityLimitExceeded" => "card_velocity_exceeded",
        _ => "generic_decline",
    };
    Some(code.to_owned())
}

/// Finds a payment method, or makes one from a test card's name; gives its identifier and how it fails.
pub(crate) fn resolve_method(
    desk: &mut Desk<'_>,
    name: &str,
    customer: Option<&str>,
) -> Result<(String, Option<String>), Failure> {
    if name.starts_with("pm_card_")
        || name.starts_with("pm_decline_")
        || name.starts_with("tok_")
        || name.starts_with("card_")
    {
        let id = desk.id("pm_1");
        let last4 = if decline_of(name).is_some() { "0002" } else { "4242" };
        let value =
            objects::payment_method(&id, last4, customer.map_or(Value::Null, |customer| json!(customer)), desk.now);
        let mut links = Links::new();
        let code = decline_of(name);
        if let Some(code) = &code {
            links.insert("decline".into(), code.clone());
        }
        desk.insert(Kind::PaymentMethod, &value, links);
        if customer.is_some() {
            desk.emit("payment_method.attached", Kind::PaymentMethod, &value, None);
        }
        return Ok((id, code));
    }
    desk.read(Kind::PaymentMethod, name, "payment_method", 400)?;
    Ok((name.to_owned(), desk.link(Kind::PaymentMethod, name, "decline")))
}

/// Creates a payment method from a card number or a token.
pub(crate) fn create_method(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    known(params, &["type", "card", "billing_details", "metadata", "allow_redisplay", "customer", "payment_method"])?;
    if form::text(params, "type") != Some("card") {
        return Err(Failure::required("type"));
    }
    let card = &params["card"];
    let name = form::text(card, "token").or_else(|| match form::text(card, "number") {
        Some("4000000000000002") => Some("tok_chargeDeclined"),
        Some("4000000000009995") => Some("tok_chargeDeclinedInsufficientFunds"),
        Some("4000000000000069") => Some("tok_chargeDeclinedExpiredCard"),
        _ => None,
    });
    let (id, _) = resolve_method(desk, name.unwrap_or("tok_visa"), None)?;
    let mut value = desk.read(Kind::PaymentMethod, &id, "id", 404)?;
    set_metadata(&mut value, params)?;
    desk.write(Kind::PaymentMethod, &value);
    Ok(value)
}

/// Attaches a payment method to a customer, or detaches it when there is none.
pub(crate) fn attach_method(desk: &mut Desk<'_>, name: &str, params: &Value, attach: bool) -> Result<Value, Failure> {
    let customer = form::text(params, "customer").filter(|_| attach).map(str::to_owned);
    if attach {
        let customer = customer.as_deref().ok_or_else(|| Failure::required("customer"))?;
        desk.read(Kind::Customer, customer, "customer", 400)?;
    }
    if attach && (name.starts_with("pm_card_") || name.starts_with("pm_decline_")) {
        let (id, _) = resolve_method(desk, name, customer.as_deref())?;
        return desk.read(Kind::PaymentMethod, &id, "id", 404);
    }
    let mut value = desk.read(Kind::PaymentMethod, name, "payment_method", 404)?;
    value["customer"] = json!(customer);
    desk.write(Kind::PaymentMethod, &value);
    let event = if attach { "payment_method.attached" } else { "payment_method.detached" };
    desk.emit(event, Kind::PaymentMethod, &value, None);
    Ok(value)
}

const INTENT: [&str; 24] = [
    "amount",
    "automatic_payment_methods",
    "capture_method",
    "confirm",
    "confirmation_method",
    "currency",
    "customer",
    "description",
    "error_on_requires_action",
    "mandate",
    "mandate_data",
    "metadata",
    "off_session",
    "payment_method",
    "payment_method_data",
    "payment_method_options",
    "payment_method_types",
    "receipt_email",
    "return_url",
    "setup_future_usage",
    "shipping",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_group",
];

/// Creates a payment intent and confirms it when asked.
pub(crate) fn create_intent(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    known(params, &INTENT)?;
    let amount = form::integer(params, "amount")?.ok_or_else(|| Failure::required("amount"))?;
    let currency = form::text(params, "currency").ok_or_else(|| Failure::required("currency"))?;
    if amount < 50 {
        return Err(Failure::invalid("Amount must be at least $0.50 usd").code("amount_too_small").param("amount"));
    }
    let customer = form::text(params, "customer");
    if let Some(customer) = customer {
        desk.read(Kind::Customer, customer, "customer", 400)?;
    }
    let confirm = form::boolean(params, "confirm")?.unwrap_or(false);
    let mut intent = new_intent(desk, amount, currency, customer);
    set_metadata(&mut intent, params)?;
    set_texts(
        &mut intent,
        params,
        &[
            "description",
            "receipt_email",
            "setup_future_usage",
            "statement_descriptor",
            "statement_descriptor_suffix",
            "transfer_group",
        ],
    );
    if let Some(method) = form::text(params, "capture_method") {
        intent["capture_method"] = json!(method);
    }
    if let Some(types) = params.get("payment_method_types") {
        intent["payment_method_types"] = types.clone();
    }
    if let Some(name) = form::text(params, "payment_method") {
        let (method, _) = resolve_method(desk, name, None)?;
        intent["payment_method"] = json!(method);
        intent["status"] = json!("requires_confirmation");
    }
    desk.insert(Kind::PaymentIntent, &intent, Links::new());
    desk.emit("payment_intent.created", Kind::PaymentIntent, &intent, None);
    if !confirm {
        return Ok(intent);
    }
    let id = intent["id"].as_str().unwrap_or_default().to_owned();
    confirm_intent(desk, &id, &json!({ "off_session": params["off_session"] })).map_err(Failure::begun)
}

/// Makes a payment intent without storing it.
pub(crate) fn new_intent(desk: &mut Desk<'_>, amount: i64, currency: &str, customer: Option<&str>) -> Value {
    let id = desk.id("pi_3");
    let secret = desk.id("");
    objects::payment_intent(
        &id,
        &secret,
        amount,
        currency,
        customer.map_or(Value::Null, |customer| json!(customer)),
        desk.now,
    )
}

/// Updates a payment intent that is not yet paid.
pub(crate) fn update_intent(desk: &mut Desk<'_>, id: &str, params: &Value) -> Result<Value, Failure> {
    let mut intent = desk.read(Kind::PaymentIntent, id, "intent", 404)?;
    known(params, &INTENT)?;
    set_metadata(&mut intent, params)?;
    set_texts(&mut intent, params, &["description", "receipt_email", "setup_future_usage", "customer"]);
    if let Some(amount) = form::integer(params, "amount")? {
        intent["amount"] = json!(amount);
    }
    if let Some(name) = form::text(params, "payment_method") {
        intent["payment_method"] = json!(resolve_method(desk, name, None)?.0);
        intent["status"] = json!("requires_confirmation");
    }
    desk.write(Kind::PaymentIntent, &intent);
    Ok(intent)
}

/// Confirms a payment intent: charges its card, or fails as the test card says.
pub(crate) fn confirm_intent(desk: &mut Desk<'_>, id: &str, params: &Value) -> Result<Value, Failure> {
    known(params, &INTENT)?;
    let mut intent = desk.read(Kind::PaymentIntent, id, "intent", 404)?;
    if matches!(intent["status"].as_str(), Some("succeeded" | "canceled" | "requires_capture")) {
        let message = format!(
            "You cannot confirm this PaymentIntent because it has already {} after being previously confirmed.",
            intent["status"].as_str().unwrap_or_default()
        );
        return Err(Failure::invalid(message).code("payment_intent_unexpected_state").with("payment_intent", intent));
    }
    let name = form::text(params, "payment_method")
        .map(str::to_owned)
        .or_else(|| intent["payment_method"].as_str().map(str::to_owned));
    let Some(name) = name else {
        let message = "You cannot confirm this PaymentIntent because it's missing a payment method.";
        return Err(Failure::invalid(message).code("payment_intent_unexpected_state").with("payment_intent", intent));
    };
    let (method, failing) = resolve_method(desk, &name, None)?;
    intent["payment_method"] = json!(method);
    let off_session = form::boolean(params, "off_session")?.unwrap_or(false);
    match failing {
        Some(code) if code == "authentication_required" && !off_session => {
            intent["status"] = json!("requires_action");
            intent["next_action"] =
                json!({ "type": "use_stripe_sdk", "use_stripe_sdk": { "type": "three_d_secure_redirect" } });
            desk.write(Kind::PaymentIntent, &intent);
            desk.emit("payment_intent.requires_action", Kind::PaymentIntent, &intent, None);
            Ok(intent)
        }
        Some(code) => Err(fail_intent(desk, intent, &method, &decline(&code)).begun()),
        None => {
            let manual = intent["capture_method"] == "manual";
            let intent = pay_intent(desk, intent, manual);
            super::invoices::intent_paid(desk, &intent)?;
            Ok(intent)
        }
    }
}

/// Charges the card of an intent that will not fail.
pub(crate) fn pay_intent(desk: &mut Desk<'_>, mut intent: Value, manual: bool) -> Value {
    let id = desk.id("ch_3");
    let amount = intent["amount"].as_i64().unwrap_or_default();
    let currency = intent["currency"].as_str().unwrap_or("usd").to_owned();
    let mut charge = objects::charge(
        &id,
        intent["id"].clone(),
        amount,
        &currency,
        intent["customer"].clone(),
        intent["payment_method"].clone(),
        desk.now,
    );
    let mut links = Links::new();
    let intent_id = intent["id"].as_str().unwrap_or_default().to_owned();
    if let Some(invoice) = desk.link(Kind::PaymentIntent, &intent_id, "invoice") {
        desk.set_link(Kind::Invoice, &invoice, "charge", &id);
        links.insert("invoice".into(), invoice);
    }
    if manual {
        charge["captured"] = json!(false);
        charge["amount_captured"] = json!(0);
        intent["amount_capturable"] = json!(amount);
    } else {
        intent["amount_received"] = json!(amount);
    }
    intent["latest_charge"] = json!(id);
    intent["last_payment_error"] = Value::Null;
    intent["next_action"] = Value::Null;
    intent["status"] = json!(if manual { "requires_capture" } else { "succeeded" });
    desk.insert(Kind::Charge, &charge, links);
    desk.write(Kind::PaymentIntent, &intent);
    desk.emit("charge.succeeded", Kind::Charge, &charge, None);
    let event = if manual { "payment_intent.amount_capturable_updated" } else { "payment_intent.succeeded" };
    desk.emit(event, Kind::PaymentIntent, &intent, None);
    intent
}

/// Records a failed charge and gives the 402 that the caller gets.
pub(crate) fn fail_intent(desk: &mut Desk<'_>, mut intent: Value, method: &str, decline: &Decline) -> Failure {
    let id = desk.id("ch_3");
    let amount = intent["amount"].as_i64().unwrap_or_default();
    let currency = intent["currency"].as_str().unwrap_or("usd").to_owned();
    let mut charge = objects::charge(
        &id,
        intent["id"].clone(),
        amount,
        &currency,
        intent["customer"].clone(),
        json!(method),
        desk.now,
    );
    charge["status"] = json!("failed");
    charge["paid"] = json!(false);
    charge["captured"] = json!(false);
    charge["amount_captured"] = json!(0);
    charge["failure_code"] = json!(decline.code);
    charge["failure_message"] = json!(decline.message);
    charge["outcome"] = json!({
        "advice_code": decline.advice_code, "network_advice_code": null, "network_decline_code": "05", "network_status": "declined_by_network",
        "reason": decline.decline_code, "risk_level": "normal", "risk_score": 40, "type": "issuer_declined",
        "seller_message": "The bank did not return any further details with this decline.",
    });
    let intent_id = intent["id"].as_str().unwrap_or_default().to_owned();
    let mut links = Links::new();
    if let Some(invoice) = desk.link(Kind::PaymentIntent, &intent_id, "invoice") {
        links.insert("invoice".into(), invoice);
    }
    desk.insert(Kind::Charge, &charge, links);
    let method_value = desk.read(Kind::PaymentMethod, method, "payment_method", 400).unwrap_or(Value::Null);
    let failure = Failure::new(402, "card_error", decline.message)
        .code(&decline.code)
        .with("decline_code", decline.decline_code.clone())
        .with("advice_code", decline.advice_code)
        .with("network_decline_code", "05")
        .with("charge", id.clone());
    let mut error = failure.error.clone();
    error["payment_method"] = method_value.clone();
    intent["last_payment_error"] = error;
    intent["latest_charge"] = json!(id);
    intent["payment_method"] = Value::Null;
    intent["status"] = json!("requires_payment_method");
    desk.write(Kind::PaymentIntent, &intent);
    desk.emit("charge.failed", Kind::Charge, &charge, None);
    desk.emit("payment_intent.payment_failed", Kind::PaymentIntent, &intent, None);
    let mut shown = intent;
    if let Some(account) = desk.world.accounts.get(&desk.account)
        && let Some(row) = account.row(Kind::PaymentIntent, &intent_id)
    {
        shown = super::shape::render(account, row, desk.era);
    }
    failure.with("payment_intent", shown).with("payment_method", method_value)
}

/// Gives the failure for a code, for invoices whose stored card fails.
pub(crate) fn decline_for(code: &str) -> Decline {
    decline(code)
}

/// Captures what was authorised.
pub(crate) fn capture_intent(desk: &mut Desk<'_>, id: &str, params: &Value) -> Result<Value, Failure> {
    known(params, &["amount_to_capture", "metadata", "statement_descriptor", "final_capture"])?;
    let mut intent = desk.read(Kind::PaymentIntent, id, "intent", 404)?;
    if intent["status"] != "requires_capture" {
        let message = "This PaymentIntent could not be captured because it has not been authorised.";
        return Err(Failure::invalid(message).code("payment_intent_unexpected_state").with("payment_intent", intent));
    }
    let amount = form::integer(params, "amount_to_capture")?.or_else(|| intent["amount"].as_i64()).unwrap_or_default();
    intent["status"] = json!("succeeded");
    intent["amount_received"] = json!(amount);
    intent["amount_capturable"] = json!(0);
    if let Some(charge_id) = intent["latest_charge"].as_str() {
        let mut charge = desk.read(Kind::Charge, charge_id, "charge", 400)?;
        charge["captured"] = json!(true);
        charge["amount_captured"] = json!(amount);
        desk.write(Kind::Charge, &charge);
        desk.emit("charge.captured", Kind::Charge, &charge, None);
    }
    desk.write(Kind::PaymentIntent, &intent);
    desk.emit("payment_intent.succeeded", Kind::PaymentIntent, &intent, None);
    Ok(intent)
}

/// Cancels a payment intent.
pub(crate) fn cancel_intent(desk: &mut Desk<'_>, id: &str, params: &Value) -> Result<Value, Failure> {
    known(params, &["cancellation_reason"])?;
    let mut intent = desk.read(Kind::PaymentIntent, id, "intent", 404)?;
    if matches!(intent["status"].as_str(), Some("succeeded" | "canceled")) {
        let message = format!(
            "You cannot cancel this PaymentIntent because it has a status of {}.",
            intent["status"].as_str().unwrap_or_default()
        );
        return Err(Failure::invalid(message).code("payment_intent_unexpected_state").with("payment_intent", intent));
    }
    intent["status"] = json!("canceled");
    intent["canceled_at"] = json!(desk.now);
    intent["cancellation_reason"] = params["cancellation_reason"].clone();
    desk.write(Kind::PaymentIntent, &intent);
    desk.emit("payment_intent.canceled", Kind::PaymentIntent, &intent, None);
    Ok(intent)
}

/// Creates a charge the old way, from a token.
pub(crate) fn create_charge(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    known(
        params,
        &[
            "amount",
            "currency",
            "source",
            "customer",
            "description",
            "metadata",
            "receipt_email",
            "capture",
            "statement_descriptor",
        ],
    )?;
    let amount = form::integer(params, "amount")?.ok_or_else(|| Failure::required("amount"))?;
    let currency = form::text(params, "currency").ok_or_else(|| Failure::required("currency"))?;
    let source = form::text(params, "source").ok_or_else(|| Failure::required("source"))?;
    let (method, failing) = resolve_method(desk, source, None)?;
    let customer = params.get("customer").cloned().unwrap_or(Value::Null);
    if let Some(code) = failing {
        let intent = new_intent(desk, amount, currency, customer.as_str());
        return Err(fail_intent(desk, intent, &method, &decline(&code)).begun());
    }
    let id = desk.id("ch_3");
    let mut charge = objects::charge(&id, Value::Null, amount, currency, customer, json!(method), desk.now);
    set_metadata(&mut charge, params)?;
    set_texts(&mut charge, params, &["description", "receipt_email", "statement_descriptor"]);
    desk.insert(Kind::Charge, &charge, Links::new());
    desk.emit("charge.succeeded", Kind::Charge, &charge, None);
    Ok(charge)
}

/// Updates what may change on a charge, a refund or a payment method: text and metadata.
pub(crate) fn annotate(
    desk: &mut Desk<'_>,
    kind: Kind,
    id: &str,
    params: &Value,
    event: &str,
) -> Result<Value, Failure> {
    let before = desk.read(kind, id, "id", 404)?;
    known(
        params,
        &[
            "metadata",
            "description",
            "receipt_email",
            "transfer_group",
            "fraud_details",
            "shipping",
            "billing_details",
            "card",
        ],
    )?;
    let mut after = before.clone();
    set_metadata(&mut after, params)?;
    if kind == Kind::Charge {
        set_texts(&mut after, params, &["description", "receipt_email", "transfer_group"]);
    }
    desk.update(kind, &before, &after, event);
    Ok(after)
}

/// Creates a refund of a charge, whole or in part.
pub(crate) fn create_refund(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    known(
        params,
        &[
            "charge",
            "payment_intent",
            "amount",
            "reason",
            "metadata",
            "currency",
            "refund_application_fee",
            "reverse_transfer",
            "instructions_email",
        ],
    )?;
    let charge_id = match (form::text(params, "charge"), form::text(params, "payment_intent")) {
        (Some(charge), _) => charge.to_owned(),
        (None, Some(intent)) => {
            let intent = desk.read(Kind::PaymentIntent, intent, "payment_intent", 400)?;
            intent["latest_charge"].as_str().map(str::to_owned).ok_or_else(|| {
                Failure::invalid("This PaymentIntent does not have a successful charge to refund.")
                    .code("payment_intent_unexpected_state")
            })?
        }
        (None, None) => {
            return Err(Failure::invalid(
                "One of the following params should be provided for this request: payment_intent or charge.",
            ));
        }
    };
    let before = desk.read(Kind::Charge, &charge_id, "charge", 400)?;
    let left =
        before["amount_captured"].as_i64().unwrap_or_default() - before["amount_refunded"].as_i64().unwrap_or_default();
    if left <= 0 {
        return Err(
            Failure::invalid(format!("Charge {charge_id} has already been refunded.")).code("charge_already_refunded")
        );
    }
    let amount = form::integer(params, "amount")?.unwrap_or(left);
    if amount <= 0 {
        return Err(Failure::invalid("Invalid positive integer").code("parameter_invalid_integer").param("amount"));
    }
    if amount > left {
        let message = format!(
            "Refund amount (${}) is greater than unrefunded amount on charge (${})",
            money(amount),
            money(left)
        );
        return Err(Failure::invalid(message).code("charge_already_refunded").param("amount"));
    }
    let id = desk.id("re_3");
    let mut refund =
        objects::refund(&id, &before, amount, params.get("reason").cloned().unwrap_or(Value::Null), desk.now);
    set_metadata(&mut refund, params)?;
    let mut after = before.clone();
    after["amount_refunded"] = json!(before["amount_refunded"].as_i64().unwrap_or_default() + amount);
    after["refunded"] = json!(amount == left);
    desk.insert(Kind::Refund, &refund, Links::new());
    desk.emit("refund.created", Kind::Refund, &refund, None);
    desk.update(Kind::Charge, &before, &after, "charge.refunded");
    Ok(refund)
}

fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}
