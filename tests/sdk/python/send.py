"""Sends events with the real rudder-sdk-python or segment-analytics-python, in the SDK's own batches, and flushes.

Usage: send.py rudderstack|segment <data plane url> <write key> <events> <users> <prefix>

Event number n (from 0) is of user <prefix>-user-<n modulo users> and carries properties.n = n. Prints one JSON
line {"sent": n, "failed": n} and ends with 1 when the SDK reported a failure.
"""

import importlib
import json
import sys

# What each SDK calls the address that it sends to.
ADDRESS = {"rudderstack": "dataPlaneUrl", "segment": "host"}


def main() -> int:
    maker, url, write_key, events, users, prefix = sys.argv[1:7]
    events, users = int(events), int(users)
    failures = []

    analytics = importlib.import_module(f"{maker}.analytics")
    analytics.write_key = write_key
    setattr(analytics, ADDRESS[maker], url)
    analytics.on_error = lambda error, items: failures.append((str(error), len(items)))

    for n in range(events):
        analytics.track(
            f"{prefix}-user-{n % users}",
            "Kit Event",
            {"n": n, "text": "grüße, 世界", "price": 12.5},
        )
    analytics.flush()
    for error, count in failures:
        print(f"{count} events failed: {error}", file=sys.stderr)
    failed = sum(count for _, count in failures)
    print(json.dumps({"sent": events, "failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
