// Sends events with the real @rudderstack/analytics-js in headless Chromium, from a page of another origin than the
// node, and closes the page.
//
// Usage: node send_browser.js <module folder> <data plane url> <write key> <events> <users> <prefix>
//
// The SDK takes its configuration from the node's own /sourceConfig. Every user is a browser of its own. The first
// user's page sends a request for each event, one after the other; the second one's sends batches; the others send
// a beacon while the page is being closed. Each user first identifies, which is an event
// too. Event number n (from 0) is of user <prefix>-user-<n modulo users> and carries properties.n = n. Prints one
// JSON line {"sent": n, "failed": n} and ends with 1 when an answer was no success.

const fs = require('fs');
const http = require('http');
const path = require('path');

const [modules, dataPlaneUrl, writeKey, eventsText, usersText, prefix] = process.argv.slice(2);
const events = Number(eventsText);
const users = Number(usersText);

const packages = path.join(modules, 'node_modules');
const { chromium } = require(path.join(packages, 'playwright-core'));
const sdk = fs.readFileSync(path.join(packages, '@rudderstack/analytics-js/dist/npm/modern/bundled/umd/index.js'));
const page = '<!doctype html><title>Shop</title><script src="/sdk.js"></script><p>A page.</p>';

// How long one answer may take.
const ANSWER_MS = 20000;

function serve() {
  const server = http.createServer((request, response) => {
    const isSdk = request.url === '/sdk.js';
    response.setHeader('Content-Type', isSdk ? 'text/javascript; charset=utf-8' : 'text/html; charset=utf-8');
    response.end(isSdk ? sdk : page);
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

function loadOptions(way) {
  const options = { configUrl: dataPlaneUrl };
  if (way === 'batches') options.queueOptions = { batch: { enabled: true, maxItems: 100, flushInterval: 300 } };
  if (way === 'beacons') {
    options.useBeacon = true;
    options.beaconQueueOptions = { maxItems: 10, flushQueueInterval: 600000 };
  }
  return options;
}

// Numbers of the user's events.
function numbersOf(user) {
  const numbers = [];
  for (let n = user; n < events; n += users) numbers.push(n);
  return numbers;
}

async function visit(browser, site, user, failures) {
  const way = ['requests', 'batches'][user] || 'beacons';
  const context = await browser.newContext();
  // Without a network beyond loopback the browser takes itself for offline.
  await context.addInitScript(() => Object.defineProperty(navigator, 'onLine', { get: () => true }));
  const tab = await context.newPage();
  tab.on('pageerror', (error) => failures.push(`page: ${error}`));
  tab.on('response', (response) => {
    if (response.url().startsWith(dataPlaneUrl) && response.status() >= 300) {
      failures.push(`${response.status()} of ${response.url()}`);
    }
  });
  const isEvent = (response) => response.url().startsWith(dataPlaneUrl) && response.request().method() === 'POST';
  const answered = () => tab.waitForResponse(isEvent, { timeout: ANSWER_MS });
  await tab.goto(site);
  const first = way === 'beacons' ? Promise.resolve() : answered();
  await tab.evaluate(
    ([key, url, options, userId]) =>
      new Promise((resolve) => {
        window.analytics = new window.rudderanalytics.RudderAnalytics();
        window.analytics.load(key, url, options);
        window.analytics.ready(resolve);
        window.analytics.identify(userId);
      }),
    [writeKey, dataPlaneUrl, loadOptions(way), `${prefix}-user-${user}`],
  );
  await first;
  const track = (numbers) =>
    tab.evaluate((list) => {
      for (const n of list) window.analytics.track('Kit Event', { n, text: 'grüße, 世界', price: 12.5 });
    }, numbers);
  const numbers = numbersOf(user);
  // One request of a user at a time: nobody can promise the order of several.
  // Fewer than a full beacon, with the identify, so that nothing is sent before the page goes.
  if (way === 'beacons' && numbers.length > 8) throw new Error('more events than one beacon takes');
  const step = { requests: 1, batches: 50, beacons: 8 }[way];
  for (let at = 0; at < numbers.length; at += step) {
    const answer = way === 'beacons' ? Promise.resolve() : answered();
    await track(numbers.slice(at, at + step));
    await answer;
  }
  const gone = tab.waitForEvent('close');
  await tab.close({ runBeforeUnload: true });
  await gone;
  await context.close();
}

async function main() {
  const server = await serve();
  const browser = await chromium.launch({
    executablePath: process.env.PINTLE_TEST_CHROMIUM || '/usr/bin/chromium',
    headless: true,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
    ],
  });
  const failures = [];
  try {
    for (let user = 0; user < users; user += 1) {
      await visit(browser, `http://localhost:${server.address().port}/`, user, failures);
    }
  } finally {
    await browser.close();
    server.close();
  }
  for (const failure of failures) console.error(failure);
  console.log(JSON.stringify({ sent: events, failed: failures.length }));
  process.exit(failures.length === 0 ? 0 : 1);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
