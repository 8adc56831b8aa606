// Sends events with the real @rudderstack/rudder-sdk-node, in the SDK's own batches, and flushes.
//
// Usage: node send.js <module folder> <data plane url> <write key> <events> <users> <prefix>
//
// Event number n (from 0) is of user <prefix>-user-<n modulo users> and carries properties.n = n. Prints one JSON
// line {"sent": n, "failed": n} and ends with 1 when the SDK reported a failure.

const path = require('path');

const [modules, dataPlaneUrl, writeKey, eventsText, usersText, prefix] = process.argv.slice(2);
const events = Number(eventsText);
const users = Number(usersText);

const sdk = require(path.join(modules, 'node_modules', '@rudderstack', 'rudder-sdk-node'));
const Analytics = sdk.default || sdk;

async function main() {
  let failed = 0;
  const client = new Analytics(writeKey, {
    dataPlaneUrl,
    flushAt: 50,
    flushInterval: 1000,
    errorHandler: (error) => {
      failed += 1;
      console.error(`a batch failed: ${error && error.message ? error.message : error}`);
    },
  });
  for (let n = 0; n < events; n += 1) {
    client.track({
      userId: `${prefix}-user-${n % users}`,
      event: 'Kit Event',
      properties: { n, text: 'grüße, 世界', price: 12.5 },
    });
    // As a server does that handles one thing after the other; without it the SDK would keep several
    // requests of one user under way at once, whose order nobody can promise.
    if (n % 50 === 49) await client.flush();
  }
  await client.flush();
  console.log(JSON.stringify({ sent: events, failed }));
  process.exit(failed === 0 ? 0 : 1);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
