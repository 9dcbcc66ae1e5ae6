// A person at a browser, without JavaScript and with it: logs in to a hub's operations page, connects Slack and Google on
// the (emulated) providers' own pages, says no, unticks a box, reloads, disconnects and reconnects, opens a link somebody
// sent. Headless Chromium does the clicking, and every flow of the operator begins at a button of the operations page;
// palisade-tests' binary `clickable` is the hub. Run by `cargo xtask test`.
//
// HUB=http://… TOKEN=… SLACK=http://… GOOGLE=http://… node clicks.mjs
//
// Fails when a form of a page may not be sent where it goes (content policy, SameSite), when a page needs a script, when
// a browser that did not begin a flow can finish it, when what was left out is not said, or when a reconnect makes another
// connection.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.env.NODE_MODULES ?? process.cwd(), 'anchor.js'));
const { chromium } = require('playwright-core');

const { HUB, TOKEN, SLACK, GOOGLE } = process.env;
const CALENDAR = 'https://www.googleapis.com/auth/calendar.readonly';

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
  ],
});

function ok(what) {
  console.log(`ok ${what}`);
}

/** A person: cookies of their own, and a list of what the browser complained about. */
async function person(options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.complaints = [];
  page.on('console', (message) => {
    if (/Content Security Policy|violates/.test(message.text())) page.complaints.push(message.text());
  });
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  return page;
}

async function shows(page, ...words) {
  const text = await page.locator('body').innerText();
  for (const word of words) assert.ok(text.includes(word), `${page.url()}: ${word} is not in: ${text}`);
}

async function at(page, base) {
  await page.waitForURL((url) => url.href.startsWith(base));
}

async function press(page, name) {
  await page.getByRole('button', { name, exact: true }).click();
}

async function operations(page, ...words) {
  await page.goto(`${HUB}/?refresh=off`);
  await shows(page, 'Connections', ...words);
}

/** Begins to connect an account from the operations page. */
async function connect(page, flow, tenant) {
  await operations(page);
  const form = page.locator('form.connect').filter({ hasText: flow });
  await form.locator('input[name=tenant]').fill(tenant);
  await form.getByRole('button', { name: 'Connect', exact: true }).click();
}

async function logIn(page) {
  await page.goto(`${HUB}/`);
  await page.getByLabel('Admin token').fill('not the token of this hub');
  await press(page, 'Log in');
  await shows(page, 'Enter the admin token');
  await page.getByLabel('Admin token').fill(TOKEN);
  await press(page, 'Log in');
  await shows(page, 'Operations', 'Connections');
}

/** The whole path of somebody who may see the operations page. */
async function admin(name, options, connections) {
  const page = await person(options);
  await logIn(page);
  ok(`${name}: the operations page asks for the admin token and opens with it`);

  await connect(page, 'slack', name);
  await at(page, SLACK);
  await shows(page, 'Tea & Co is requesting permission', 'chat:write', 'You will be sent to');
  await press(page, 'Deny');
  await at(page, HUB);
  await shows(page, 'Not connected', 'You chose not to allow access');
  await operations(page);
  assert.equal(await page.locator('article.card').count(), connections, 'a denial connected something');
  ok(`${name}: who presses Deny is told that nothing was connected, and nothing is`);

  await connect(page, 'slack', name);
  await at(page, SLACK);
  await press(page, 'Allow');
  await at(page, HUB);
  await shows(page, 'Slack is connected', 'You can close this page');
  await page.reload();
  await shows(page, 'This page cannot be used', 'opened twice');
  await operations(page, `tenant ${name}`);
  assert.equal(await page.locator('article.card').count(), connections + 1);
  ok(`${name}: Allow connects Slack, a reload does not connect it twice, and the operations page shows it`);

  await connect(page, 'google', name);
  await at(page, GOOGLE);
  assert.ok(await page.locator('input[value=openid]').isDisabled(), 'who one is cannot be left out');
  await page.locator(`input[value="${CALENDAR}"]`).uncheck();
  await press(page, 'Allow');
  await at(page, HUB);
  await shows(page, 'Google is connected', 'Not everything that was asked for was allowed', CALENDAR);
  await operations(page, 'Slack', 'Google');
  assert.equal(await page.locator('article.card').count(), connections + 2);
  ok(`${name}: a box that is unticked on Google's page is missed in words`);

  const card = page.locator('article.card').filter({ hasText: `tenant ${name}` }).filter({ hasText: 'Slack' });
  const id = await card.locator('h3').innerText();
  await card.getByRole('link', { name: 'Disconnect' }).click();
  await shows(page, 'Its access is revoked at Slack');
  await press(page, 'Disconnect');
  await shows(page, 'is disconnected', 'Slack confirmed that the access is revoked');
  await operations(page);
  assert.equal(await card.getByRole('link', { name: 'Disconnect' }).count(), 0, 'what is disconnected can be again');
  await card.getByRole('button', { name: 'Reconnect' }).click();
  await at(page, SLACK);
  await press(page, 'Allow');
  await shows(page, 'Slack is connected');
  await operations(page);
  assert.equal(await page.locator('article.card').count(), connections + 2, 'a reconnect made another connection');
  assert.equal(await card.locator('h3').innerText(), id);
  assert.equal(await card.getByRole('button', { name: 'Reconnect' }).count(), 0, 'it is not connected again');
  ok(`${name}: Disconnect revokes at Slack, and Reconnect brings the same connection back`);

  await press(page, 'Log out');
  await page.goto(`${HUB}/`);
  await shows(page, 'Enter the admin token');
  assert.deepEqual(page.complaints, []);
  ok(`${name}: after logging out the page is closed, and the browser complained about nothing`);
  await page.context().close();
}

/** Somebody in a product's front end, who has a link and nothing else; and somebody who is sent its callback. */
async function customer() {
  const answer = await fetch(`${HUB}/api/v1/connect-sessions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json' },
    body: JSON.stringify({ tenant: 'customer', provider: 'slack' }),
  });
  assert.equal(answer.status, 201);
  const { url } = await answer.json();
  const page = await person();
  await page.goto(url);
  await at(page, SLACK);
  // The provider's answer is caught on its way, and its callback opened by somebody else.
  let caught;
  await page.route(`${SLACK}/**`, async (route) => {
    const answer = await route.fetch({ maxRedirects: 0 });
    caught = answer.headers().location;
    await route.fulfill({ body: 'caught', contentType: 'text/plain' });
  });
  await press(page, 'Allow');
  await page.getByText('caught').waitFor();
  const stranger = await person();
  await stranger.goto(caught);
  await shows(stranger, 'Started somewhere else', 'Nothing was connected');
  ok('a callback in a browser that did not begin the flow is refused in words');

  await page.goto(url);
  await shows(page, 'This link was used already');
  ok('a link works once');
  for (const one of [page, stranger]) {
    assert.deepEqual(one.complaints, []);
    await one.context().close();
  }
}

try {
  await admin('plain', { javaScriptEnabled: false }, 0);
  await admin('scripted', {}, 2);
  await customer();
} finally {
  await browser.close();
}
