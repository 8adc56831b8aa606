// Sends events with the real @segment/analytics-node, in the SDK's own batches, and flushes.
//
// Usage: node send_segment.js <module folder> <data plane url> <write key> <events> <users> <prefix>
//
// Event number n (from 0) is of user <prefix>-user-<n modulo users> and carries properties.n = n. Prints one JSON
// line {"sent": n, "failed": n} and ends with 1 when the SDK reported a failure.

const path = require('path');

const [modules, host, writeKey, eventsText, usersText, prefix] = process.argv.slice(2);
const events = Number(eventsText);
const users = Number(usersText);

const { Analytics } = require(path.join(modules, 'node_modules', '@segment', 'analytics-node'));

async function main() {
  let failed = 0;
  const client = new Analytics({ writeKey, host, path: '/v1/batch', flushAt: 50, flushInterval: 1000 });
  client.on('error', (error) => {
    failed += 1;
    console.error(`a batch failed: ${error && error.reason ? error.reason : error}`);
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
  await client.closeAndFlush();
  console.log(JSON.stringify({ sent: events, failed }));
  process.exit(failed === 0 ? 0 : 1);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
