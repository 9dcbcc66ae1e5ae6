// Drives the official Node SDK (stripe 23.x), unpatched, against a running emulator.
//
// BASE_URL=http://127.0.0.1:PORT API_KEY=sk_test_emulator node stripe_node.mjs
// Prints one line per check; exits with 1 at the first that fails. NODE_MODULES may name the folder that holds `stripe`.
import assert from 'node:assert/strict';
import {createRequire} from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.env.NODE_MODULES ?? process.cwd(), 'anchor.js'));
const loaded = require('stripe');
const Stripe = loaded.default ?? loaded;

const BASE = new URL(process.env.BASE_URL);
const KEY = process.env.API_KEY;
const OLD = '2024-06-20';

const client = (options = {}, key = KEY) =>
  new Stripe(key, {host: BASE.hostname, port: BASE.port, protocol: 'http', maxNetworkRetries: 0, telemetry: false, ...options});

async function control(method, where, body) {
  const answer = await fetch(new URL('/_emulator/' + where, BASE), {method, body: body && JSON.stringify(body)});
  assert.equal(answer.status, 200, await answer.clone().text());
  return answer.json();
}

async function refused(work, type) {
  try {
    await work();
  } catch (error) {
    assert.equal(error.type, type, error.message);
    return error;
  }
  throw new Error(`expected ${type}`);
}

async function shop(api) {
  const product = await api.products.create({name: 'Tea'});
  const price = await api.prices.create({product: product.id, currency: 'usd', unit_amount: 900, recurring: {interval: 'month'}});
  return [await api.customers.create({email: 'ada@example.com'}), price];
}

const pay = (api, method, options) =>
  api.paymentIntents.create({amount: 900, currency: 'usd', confirm: true, payment_method: method}, options);

const incomplete = (api, customer, price, expand) =>
  api.subscriptions.create({customer: customer.id, items: [{price: price.id}], payment_behavior: 'default_incomplete', expand});

const checks = {
  async customers() {
    const api = client();
    const made = await api.customers.create({email: 'a@example.com', name: 'Ada', metadata: {k: 'v'}});
    assert.equal((await api.customers.retrieve(made.id)).metadata.k, 'v');
    const changed = await api.customers.update(made.id, {name: '', metadata: {n: '1'}});
    assert.equal(changed.name, null);
    assert.deepEqual(changed.metadata, {k: 'v', n: '1'});
    assert.equal((await api.customers.del(made.id)).deleted, true);
    assert.equal((await api.customers.retrieve(made.id)).deleted, true);
    const error = await refused(() => api.customers.retrieve('cus_nobody'), 'StripeInvalidRequestError');
    assert.deepEqual([error.statusCode, error.code, error.param], [404, 'resource_missing', 'id']);
  },
  async autoPagination() {
    await control('POST', 'populate', {customers: 250, products: 2, prices: 4, subscriptions: 5, salt: 2});
    const seen = await client().customers.list({limit: 100}).autoPagingToArray({limit: 10_000});
    assert.ok(seen.length >= 250);
    assert.equal(new Set(seen.map((customer) => customer.id)).size, seen.length);
  },
  async subscriptionNew() {
    const api = client();
    const made = await incomplete(api, ...(await shop(api)), ['latest_invoice.confirmation_secret', 'pending_setup_intent']);
    assert.equal(made.status, 'incomplete');
    assert.match(made.latest_invoice.confirmation_secret.client_secret, /^pi_.*_secret_/);
    assert.ok(made.items.data[0].current_period_end > made.items.data[0].current_period_start);
    assert.equal(made.latest_invoice.parent.subscription_details.subscription, made.id);
  },
  async subscriptionOld() {
    const api = client({apiVersion: OLD});
    const made = await incomplete(api, ...(await shop(api)), ['latest_invoice.payment_intent']);
    assert.ok(made.latest_invoice.payment_intent.client_secret);
    assert.ok(made.current_period_end > made.current_period_start);
    await refused(() => client().subscriptions.retrieve(made.id, {expand: ['latest_invoice.payment_intent']}), 'StripeInvalidRequestError');
  },
  async cancelAtPeriodEnd() {
    const api = client();
    const made = await incomplete(api, ...(await shop(api)));
    assert.ok((await api.subscriptions.update(made.id, {cancel_at_period_end: true})).cancel_at);
    assert.equal((await api.subscriptions.update(made.id, {cancel_at_period_end: false})).cancel_at, null);
    assert.equal((await api.subscriptions.cancel(made.id)).status, 'canceled');
    const listed = async (options) => (await api.subscriptions.list({limit: 100, ...options})).data.some((item) => item.id === made.id);
    assert.deepEqual([await listed({}), await listed({status: 'all'})], [false, true]);
  },
  async refund() {
    const api = client();
    const intent = await pay(api, 'pm_card_visa');
    assert.equal((await api.refunds.create({payment_intent: intent.id, amount: 300})).status, 'succeeded');
    const error = await refused(() => api.refunds.create({charge: intent.latest_charge, amount: 700}), 'StripeInvalidRequestError');
    assert.equal(error.code, 'charge_already_refunded');
  },
  async cardError() {
    const error = await refused(() => pay(client(), 'pm_card_chargeDeclinedInsufficientFunds'), 'StripeCardError');
    assert.deepEqual([error.statusCode, error.code, error.decline_code], [402, 'card_declined', 'insufficient_funds']);
    assert.equal(error.payment_intent.status, 'requires_payment_method');
  },
  async checkout() {
    const api = client();
    const [, price] = await shop(api);
    const form = {mode: 'payment', line_items: [{price: price.id, quantity: 1}], success_url: 'https://example.com/ok'};
    const session = await api.checkout.sessions.create(form);
    assert.equal(session.status, 'open');
    await control('POST', 'mutate', {story: 'complete_checkout', id: session.id});
    assert.equal((await api.checkout.sessions.retrieve(session.id)).payment_status, 'paid');
  },
  async events() {
    const api = client();
    const customer = await api.customers.create({name: 'x'});
    await api.customers.update(customer.id, {name: 'y'});
    const newest = (await api.events.list({types: ['customer.created', 'customer.updated'], limit: 2})).data;
    assert.deepEqual(newest.map((event) => event.type), ['customer.updated', 'customer.created']);
    assert.equal(newest[0].data.previous_attributes.name, 'x');
    const newer = await api.events.list({ending_before: newest[1].id});
    assert.deepEqual(newer.data.map((event) => event.id), [newest[0].id]);
  },
  async idempotency() {
    const api = client();
    const first = await api.customers.create({name: 'x'}, {idempotencyKey: 'node-1'});
    const again = await api.customers.create({name: 'x'}, {idempotencyKey: 'node-1'});
    assert.equal(first.id, again.id);
    assert.equal(again.lastResponse.headers['idempotent-replayed'], 'true');
    const error = await refused(() => api.customers.create({name: 'z'}, {idempotencyKey: 'node-1'}), 'StripeIdempotencyError');
    assert.equal(error.statusCode, 400);
  },
  async rateLimit() {
    await control('POST', 'faults', {next: [{route: 'GET /v1/customers', faults: [{throttle: {seconds: 1}}]}]});
    const error = await refused(() => client().customers.list(), 'StripeRateLimitError');
    assert.deepEqual([error.statusCode, error.headers['retry-after']], [429, '1']);
  },
  async retriesDoNotDouble() {
    const api = client({maxNetworkRetries: 2});
    await control('POST', 'faults', {next: [{route: 'POST /v1/customers', faults: ['reset_after', {status: 503}]}]});
    const made = await api.customers.create({email: 'retry-node@example.com'});
    const found = await api.customers.list({email: 'retry-node@example.com'});
    assert.deepEqual(found.data.map((customer) => customer.id), [made.id]);
    // A cut body is a connection error that this SDK reports and does not retry.
    await control('POST', 'faults', {next: [{route: 'GET /v1/customers', faults: ['cut_body']}]});
    await refused(() => api.customers.list(), 'StripeConnectionError');
  },
  async credentials() {
    await refused(() => client({}, 'sk_test_wrong').customers.list(), 'StripeAuthenticationError');
    const error = await refused(() => client({stripeAccount: 'acct_nobody'}).customers.list(), 'StripePermissionError');
    assert.equal(error.code, 'account_invalid');
    await client({stripeAccount: 'acct_connected'}).customers.list();
  },
  async webhooks() {
    const endpoint = await control('POST', 'webhook_endpoints', {url: 'http://127.0.0.1:9/', secret: 'whsec_node'});
    const api = client();
    const made = await api.customers.create({name: 'Zoë', description: 'line\nbreak'});
    const event = (await api.events.list({limit: 1})).data[0];
    const signed = await control('GET', `signed?endpoint=${endpoint.id}&event=${event.id}`);
    assert.equal(api.webhooks.constructEvent(signed.body, signed.header, 'whsec_node').data.object.id, made.id);
    assert.throws(() => api.webhooks.constructEvent(JSON.stringify(JSON.parse(signed.body)), signed.header, 'whsec_node'));
    await api.webhookEndpoints.del(endpoint.id);
  },
  async thinEvents() {
    const api = client();
    const made = await api.v2.core.eventDestinations.create({
      name: 'SDK', type: 'webhook_endpoint', event_payload: 'thin', enabled_events: ['v1.customer.updated'],
      webhook_endpoint: {url: 'http://127.0.0.1:9/'}, include: ['webhook_endpoint.signing_secret'],
    });
    const customer = await api.customers.create({name: 'x'});
    await api.customers.update(customer.id, {name: 'y'});
    const [snapshot] = (await api.events.list({types: ['customer.updated'], limit: 1})).data;
    const signed = await control('GET', `signed?endpoint=${made.id}&event=${snapshot.id}`);
    const notice = api.parseEventNotification(signed.body, signed.header, made.webhook_endpoint.signing_secret);
    assert.deepEqual([notice.type, notice.related_object.id], ['v1.customer.updated', customer.id]);
    const event = await notice.fetchEvent();
    assert.deepEqual([event.snapshot_event, event.changes.before.name], [snapshot.id, 'x']);
    assert.equal((await notice.fetchRelatedObject()).name, 'y');
    const error = await refused(() => api.v2.core.events.retrieve('evt_test_none'), 'StripeInvalidRequestError');
    assert.equal(error.statusCode, 404);
  },
  async search() {
    const api = client();
    await api.customers.create({email: 'needle-node@example.com'});
    const found = await api.customers.search({query: "email:'needle-node@example.com'"});
    assert.equal(found.data[0].email, 'needle-node@example.com');
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
  } catch (error) {
    console.log(`FAIL ${name}: ${error.stack}`);
    process.exit(1);
  }
  console.log(`ok ${name}`);
}
process.exit(0);
