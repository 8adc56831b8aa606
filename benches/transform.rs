//! User transformations (performance.md 5), beside anchor A10: the same function over the same texts in one context.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark: a failure ends it")]

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pintle::settings::{Live, Settings};
use pintle::transform::{Batch, Code, Contract, Engine, Event, of_destination};
use rquickjs::{Context, Function, Runtime};
use serde_json::json;

const EVENTS: usize = 200;
const BODY: &str = "(event) {
  if (event.type !== 'track') return null;
  event.properties.total = event.properties.price * event.properties.quantity;
  event.context.shop = 'north';
  return event;
}";

fn events() -> Vec<Event> {
    (0..EVENTS)
        .map(|n| {
            let message_id = format!("message-{n:08}");
            let message = json!({
                "type": "track", "event": "Product Viewed", "messageId": message_id, "userId": format!("user-{n}"),
                "anonymousId": "0b9f3c1e-5f5a-4ba5-9f6f-54b6d1f0f3a1", "originalTimestamp": "2025-03-10T09:59:00.000Z",
                "sentAt": "2025-03-10T10:00:00.000Z", "channel": "web",
                "context": {
                    "app": { "name": "Shop", "version": "1.2.3", "namespace": "com.example.shop" },
                    "library": { "name": "js", "version": "2.50.0" }, "locale": "de-DE", "ip": "203.0.113.9",
                    "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36",
                    "page": { "url": "https://shop.example/p/1?utm_source=x", "path": "/p/1", "title": "A product", "referrer": "" },
                    "screen": { "width": 1920, "height": 1080, "density": 1 },
                },
                "properties": { "product_id": "p-1", "sku": "s-1", "category": "Games", "name": "Monopoly", "price": 18.99, "quantity": 2, "position": 3 },
                "integrations": { "All": true },
            });
            let metadata = json!({ "messageId": message_id, "sourceId": "s", "destinationId": "d" }).to_string();
            Event { message: message.to_string(), metadata, message_id }
        })
        .collect()
}

fn transform(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("transform");
    group.throughput(Throughput::Elements(EVENTS as u64));
    let events: Arc<[Event]> = events().into();

    let runtime = Runtime::new().unwrap();
    let context = Context::full(&runtime).unwrap();
    context.with(|ctx| {
        let function: Function<'_> =
            ctx.eval(format!("(text) => JSON.stringify((function{BODY})(JSON.parse(text)))")).unwrap();
        group.bench_function("anchor_a10", |bencher| {
            bencher.iter(|| {
                events
                    .iter()
                    .map(|event| function.call::<_, String>((event.message.as_str(),)).unwrap().len())
                    .sum::<usize>()
            });
        });
    });

    let text = format!("export function transformEvent{BODY}");
    let code = Arc::new(Code::new("", "v1", Contract::Module, text, Vec::new(), Vec::new()));
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let engine = tokio.block_on(async { Engine::new(Live::new(Settings::defaults())) });
    group.bench_function("js_batch", |bencher| {
        bencher.iter(|| {
            let batch = Batch { code: Arc::clone(&code), events: Arc::clone(&events), lane: 0, keeps_logs: false };
            tokio.block_on(engine.run(batch)).results.len()
        });
    });
    group.throughput(Throughput::Elements(1));
    let (destination, workspace) =
        (pintle::backend_config::Destination::default(), pintle::backend_config::Workspace::default());
    group.bench_function("none", |bencher| bencher.iter(|| of_destination(&destination, &workspace).is_none()));
    group.finish();
}

criterion_group!(benches, transform);
criterion_main!(benches);
