//! Customers, products, prices and webhook endpoints: create, update, delete.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use serde_json::{Value, json};

use super::desk::{Desk, known, set_metadata, set_object, set_texts};
use super::error::Failure;
use super::form;
use super::objects;
use super::payments;
use super::state::{Endpoint, Kind, Links};

const ADDRESS: [&str; 6] = ["city", "country", "line1", "line2", "postal_code", "state"];
const CUSTOMER: [&str; 20] = [
    "address",
    "balance",
    "cash_balance",
    "coupon",
    "default_source",
    "description",
    "email",
    "invoice_prefix",
    "invoice_settings",
    "metadata",
    "name",
    "next_invoice_sequence",
    "payment_method",
    "phone",
    "preferred_locales",
    "shipping",
    "source",
    "tax_exempt",
    "test_clock",
    "tax",
];
/// Longest e-mail address Stripe keeps.
const EMAIL_MAX: usize = 512;

/// Creates a customer.
pub(crate) fn create_customer(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    known(params, &CUSTOMER)?;
    let id = desk.id("cus_");
    let mut customer = objects::customer(&id, desk.now);
    fill_customer(desk, &mut customer, params)?;
    desk.insert(Kind::Customer, &customer, Links::new());
    if let Some(method) = form::text(params, "payment_method").or_else(|| form::text(params, "source")) {
        payments::resolve_method(desk, method, Some(&id))?;
    }
    desk.emit("customer.created", Kind::Customer, &customer, None);
    Ok(customer)
}

/// Updates a customer.
pub(crate) fn update_customer(desk: &mut Desk<'_>, id: &str, params: &Value) -> Result<Value, Failure> {
    let before = desk.read(Kind::Customer, id, "id", 404)?;
    known(params, &CUSTOMER)?;
    let mut after = before.clone();
    fill_customer(desk, &mut after, params)?;
    desk.update(Kind::Customer, &before, &after, "customer.updated");
    Ok(after)
}

fn fill_customer(desk: &mut Desk<'_>, customer: &mut Value, params: &Value) -> Result<(), Failure> {
    if let Some(email) = form::text(params, "email").filter(|email| !email.is_empty()) {
        if email.len() > EMAIL_MAX {
            return Err(
                Failure::invalid(format!("Invalid string: must be at most {EMAIL_MAX} characters")).param("email")
            );
        }
        if !email.contains('@') {
            return Err(Failure::invalid(format!("Invalid email address: {email}"))
                .code("email_invalid")
                .param("email"));
        }
    }
    set_metadata(customer, params)?;
    set_texts(customer, params, &["email", "name", "phone", "description", "default_source", "test_clock"]);
    for name in ["invoice_prefix", "tax_exempt"] {
        if let Some(text) = form::text(params, name).filter(|text| !text.is_empty()) {
            customer[name] = json!(text);
        }
    }
    for name in ["balance", "next_invoice_sequence"] {
        if let Some(number) = form::integer(params, name)? {
            customer[name] = json!(number);
        }
    }
    set_object(customer, params, "address", &ADDRESS);
    if let Some(shipping) = params.get("shipping") {
        let mut filled = json!({});
        set_object(&mut filled, shipping, "address", &ADDRESS);
        customer["shipping"] = if shipping == "" {
            Value::Null
        } else {
            json!({ "address": filled["address"], "carrier": null, "name": shipping["name"], "phone": shipping["phone"], "tracking_number": null })
        };
    }
    if params.get("preferred_locales").is_some() {
        customer["preferred_locales"] = json!(form::texts(params, "preferred_locales"));
    }
    if let Some(settings) = params.get("invoice_settings") {
        let id = customer["id"].as_str().unwrap_or_default().to_owned();
        match form::text(settings, "default_payment_method") {
            Some("") => customer["invoice_settings"]["default_payment_method"] = Value::Null,
            Some(method) => {
                let (method, _) = payments::resolve_method(desk, method, Some(&id))?;
                customer["invoice_settings"]["default_payment_method"] = json!(method);
            }
            None => {}
        }
        let mut inner = customer["invoice_settings"].clone();
        set_texts(&mut inner, settings, &["footer"]);
        customer["invoice_settings"] = inner;
    }
    Ok(())
}

/// Deletes a customer for good; its subscriptions end at once, as at Stripe.
pub(crate) fn delete_customer(desk: &mut Desk<'_>, id: &str) -> Result<Value, Failure> {
    desk.read(Kind::Customer, id, "id", 404)?;
    let owned: Vec<String> = desk.data().table_ref(Kind::Subscription).map_or_else(Vec::new, |table| {
        table
            .iter()
            .filter(|(_, row)| {
                row.link("customer") == Some(id)
                    && !matches!(row.link("status"), Some("canceled" | "incomplete_expired"))
            })
            .map(|(id, _)| id.to_string())
            .collect()
    });
    for subscription in owned {
        super::billing::cancel(desk, &subscription, &json!({}))?;
    }
    desk.delete(Kind::Customer, id, "customer.deleted")
}

const PRODUCT: [&str; 15] = [
    "active",
    "default_price",
    "default_price_data",
    "description",
    "id",
    "images",
    "marketing_features",
    "metadata",
    "name",
    "package_dimensions",
    "shippable",
    "statement_descriptor",
    "tax_code",
    "unit_label",
    "url",
];

/// Creates a product, with a default price when `default_price_data` is given.
pub(crate) fn create_product(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    known(params, &[PRODUCT.as_slice(), &["type"]].concat())?;
    let name = form::text(params, "name").filter(|name| !name.is_empty()).ok_or_else(|| Failure::required("name"))?;
    let id = match form::text(params, "id") {
        Some(id) if desk.read(Kind::Product, id, "id", 404).is_ok() => {
            return Err(Failure::invalid("Product already exists.").code("resource_already_exists").param("id"));
        }
        Some(id) => id.to_owned(),
        None => desk.id("prod_"),
    };
    let mut product = objects::product(&id, name, desk.now);
    fill_product(&mut product, params)?;
    desk.insert(Kind::Product, &product, Links::new());
    desk.emit("product.created", Kind::Product, &product, None);
    if let Some(data) = params.get("default_price_data") {
        let mut data = data.clone();
        data["product"] = json!(id);
        let price = create_price(desk, &data)?;
        product["default_price"] = price["id"].clone();
        desk.write(Kind::Product, &product);
    }
    Ok(product)
}

/// Updates a product.
pub(crate) fn update_product(desk: &mut Desk<'_>, id: &str, params: &Value) -> Result<Value, Failure> {
    let before = desk.read(Kind::Product, id, "id", 404)?;
    known(params, &PRODUCT)?;
    let mut after = before.clone();
    fill_product(&mut after, params)?;
    if after != before {
        after["updated"] = json!(desk.now);
    }
    desk.update(Kind::Product, &before, &after, "product.updated");
    Ok(after)
}

fn fill_product(product: &mut Value, params: &Value) -> Result<(), Failure> {
    set_metadata(product, params)?;
    set_texts(
        product,
        params,
        &["description", "statement_descriptor", "tax_code", "unit_label", "url", "default_price"],
    );
    if let Some(name) = form::text(params, "name").filter(|name| !name.is_empty()) {
        product["name"] = json!(name);
    }
    for name in ["active", "shippable"] {
        if let Some(flag) = form::boolean(params, name)? {
            product[name] = json!(flag);
        }
    }
    if params.get("images").is_some() {
        product["images"] = json!(form::texts(params, "images"));
    }
    if let Some(features) = params.get("marketing_features").and_then(Value::as_array) {
        product["marketing_features"] = json!(features);
    }
    Ok(())
}

/// Deletes a product that has no prices.
pub(crate) fn delete_product(desk: &mut Desk<'_>, id: &str) -> Result<Value, Failure> {
    desk.read(Kind::Product, id, "id", 404)?;
    let priced = desk
        .data()
        .table_ref(Kind::Price)
        .is_some_and(|table| table.iter().any(|(_, row)| row.link("product") == Some(id)));
    if priced {
        return Err(Failure::invalid("This product cannot be deleted because it has one or more user-created prices."));
    }
    desk.delete(Kind::Product, id, "product.deleted")
}

const PRICE: [&str; 17] = [
    "active",
    "billing_scheme",
    "currency",
    "currency_options",
    "custom_unit_amount",
    "lookup_key",
    "metadata",
    "nickname",
    "product",
    "product_data",
    "recurring",
    "tax_behavior",
    "tiers",
    "tiers_mode",
    "transfer_lookup_key",
    "unit_amount",
    "unit_amount_decimal",
];

/// Creates a price for a product that exists or is described by `product_data`.
pub(crate) fn create_price(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    known(params, &PRICE)?;
    let currency = form::text(params, "currency").ok_or_else(|| Failure::required("currency"))?;
    let amount = match form::integer(params, "unit_amount")? {
        Some(amount) => amount,
        None => {
            let decimal = form::text(params, "unit_amount_decimal").and_then(|text| text.parse::<f64>().ok());
            decimal.map(|decimal| decimal.round() as i64).ok_or_else(|| Failure::required("unit_amount"))?
        }
    };
    let recurring = match params.get("recurring") {
        Some(recurring) => {
            let interval = form::text(recurring, "interval").ok_or_else(|| Failure::required("recurring[interval]"))?;
            if !matches!(interval, "day" | "week" | "month" | "year") {
                return Err(Failure::invalid("Invalid recurring[interval]: must be one of day, month, week, or year")
                    .param("recurring[interval]"));
            }
            objects::recurring(interval, form::integer(recurring, "interval_count")?.unwrap_or(1))
        }
        None => Value::Null,
    };
    let product = match (form::text(params, "product"), params.get("product_data")) {
        (Some(product), _) => {
            desk.read(Kind::Product, product, "product", 400)?;
            product.to_owned()
        }
        (None, Some(data)) => create_product(desk, data)?["id"].as_str().unwrap_or_default().to_owned(),
        (None, None) => return Err(Failure::required("product")),
    };
    let id = desk.id("price_1");
    let mut price = objects::price(&id, &product, currency, amount, recurring, desk.now);
    fill_price(&mut price, params)?;
    desk.insert(Kind::Price, &price, Links::new());
    desk.emit("price.created", Kind::Price, &price, None);
    Ok(price)
}

/// Updates a price.
pub(crate) fn update_price(desk: &mut Desk<'_>, id: &str, params: &Value) -> Result<Value, Failure> {
    let before = desk.read(Kind::Price, id, "id", 404)?;
    known(
        params,
        &["active", "currency_options", "lookup_key", "metadata", "nickname", "tax_behavior", "transfer_lookup_key"],
    )?;
    let mut after = before.clone();
    fill_price(&mut after, params)?;
    desk.update(Kind::Price, &before, &after, "price.updated");
    Ok(after)
}

fn fill_price(price: &mut Value, params: &Value) -> Result<(), Failure> {
    set_metadata(price, params)?;
    set_texts(price, params, &["nickname", "lookup_key"]);
    if let Some(behavior) = form::text(params, "tax_behavior") {
        price["tax_behavior"] = json!(behavior);
    }
    if let Some(active) = form::boolean(params, "active")? {
        price["active"] = json!(active);
    }
    Ok(())
}

/// Creates a webhook endpoint; the answer is the only place that shows its secret.
pub(crate) fn create_endpoint(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    known(params, &["url", "enabled_events", "api_version", "connect", "description", "metadata"])?;
    let url = form::text(params, "url").ok_or_else(|| Failure::required("url"))?;
    let enabled = form::texts(params, "enabled_events");
    if enabled.is_empty() {
        return Err(Failure::required("enabled_events"));
    }
    let secret = desk.id("whsec_");
    let version = form::text(params, "api_version").map(str::to_owned);
    if let Some(version) = version.as_deref().filter(|version| !super::shape::is_version(version)) {
        return Err(Failure::invalid(format!("Invalid API version: {version}")).param("api_version"));
    }
    let connect = form::boolean(params, "connect")?.unwrap_or(false);
    let mut endpoint = add_endpoint(desk, url, &secret, version.as_deref(), enabled, connect);
    set_metadata(&mut endpoint, params)?;
    set_texts(&mut endpoint, params, &["description"]);
    desk.write(Kind::Endpoint, &endpoint);
    endpoint["secret"] = json!(secret);
    Ok(endpoint)
}

/// Adds an endpoint with a secret of the caller's choice.
pub(crate) fn add_endpoint(
    desk: &mut Desk<'_>,
    url: &str,
    secret: &str,
    version: Option<&str>,
    enabled: Vec<String>,
    connect: bool,
) -> Value {
    let id = desk.id("we_1");
    let value = objects::endpoint(&id, url, &enabled, version, desk.now);
    desk.insert(Kind::Endpoint, &value, Links::new());
    let endpoint = Endpoint {
        id: id.clone(),
        account: desk.account.clone(),
        url: url.to_owned(),
        secrets: vec![(secret.to_owned(), None)],
        api_version: version.map(str::to_owned),
        enabled_events: enabled,
        connect,
        enabled: true,
    };
    desk.world.endpoints.insert(id, endpoint);
    value
}

/// Updates a webhook endpoint: address, events, disabled or not.
pub(crate) fn update_endpoint(desk: &mut Desk<'_>, id: &str, params: &Value) -> Result<Value, Failure> {
    let mut value = desk.read(Kind::Endpoint, id, "id", 404)?;
    known(params, &["url", "enabled_events", "disabled", "description", "metadata"])?;
    set_metadata(&mut value, params)?;
    set_texts(&mut value, params, &["description", "url"]);
    if params.get("enabled_events").is_some() {
        value["enabled_events"] = json!(form::texts(params, "enabled_events"));
    }
    if let Some(disabled) = form::boolean(params, "disabled")? {
        value["status"] = json!(if disabled { "disabled" } else { "enabled" });
    }
    desk.write(Kind::Endpoint, &value);
    if let Some(endpoint) = desk.world.endpoints.get_mut(id) {
        endpoint.url = value["url"].as_str().unwrap_or_default().to_owned();
        endpoint.enabled = value["status"] == "enabled";
        endpoint.enabled_events = form::texts(&value, "enabled_events");
    }
    Ok(value)
}

/// Deletes a webhook endpoint; what is queued for it is not tried again.
pub(crate) fn delete_endpoint(desk: &mut Desk<'_>, id: &str) -> Result<Value, Failure> {
    desk.read(Kind::Endpoint, id, "id", 404)?;
    desk.world.endpoints.remove(id);
    desk.data().table(Kind::Endpoint).remove(id);
    Ok(objects::deleted(id, "webhook_endpoint"))
}
