//! Transformations of the kind that people write, with what they give.

use serde_json::{Value, json};

use super::contract_tests::{engine, run};

/// Name, code, events, and per result the place and the output (`null` = dropped).
fn cases() -> Vec<(&'static str, &'static str, Vec<Value>, Vec<(i64, Value)>)> {
    vec![
        (
            "personal data is hashed or removed",
            "const hash = (text) => { let h = 5381; for (const c of text) h = ((h << 5) + h + c.charCodeAt(0)) >>> 0; return h.toString(16); };
             export function transformEvent(event) {
               const traits = event.context?.traits;
               if (traits?.email) { traits.email_hash = hash(traits.email.trim().toLowerCase()); delete traits.email; }
               delete event.context?.ip;
               return event;
             }",
            vec![json!({ "messageId": "1", "context": { "ip": "1.2.3.4", "traits": { "email": " A@b.c " } } }), json!({ "messageId": "2" })],
            vec![(0, json!({ "messageId": "1", "context": { "traits": { "email_hash": "eff0879" } } })), (1, json!({ "messageId": "2" }))],
        ),
        (
            "events of test accounts are dropped",
            "export function transformEvent(event) {
               const email = event.context?.traits?.email ?? event.traits?.email ?? '';
               if (/@(example|test)\\.com$/i.test(email)) return;
               return event;
             }",
            vec![json!({ "messageId": "1", "traits": { "email": "x@TEST.com" } }), json!({ "messageId": "2", "traits": { "email": "x@shop.com" } })],
            vec![(0, Value::Null), (1, json!({ "messageId": "2", "traits": { "email": "x@shop.com" } }))],
        ),
        (
            "event names are mapped",
            "const names = { 'Order Completed': 'Purchase', 'Product Added': 'AddToCart' };
             export function transformEvent(event) {
               if (event.type === 'track') event.event = names[event.event] ?? event.event;
               return event;
             }",
            vec![json!({ "messageId": "1", "type": "track", "event": "Order Completed" }), json!({ "messageId": "2", "type": "track", "event": "Else" })],
            vec![(0, json!({ "messageId": "1", "type": "track", "event": "Purchase" })), (1, json!({ "messageId": "2", "type": "track", "event": "Else" }))],
        ),
        (
            "an order becomes an event per product",
            "export function transformEvent(event) {
               const { products = [], ...order } = event.properties ?? {};
               return products.map((product, position) => ({ ...event, event: 'Product Bought', properties: { ...order, ...product, position } }));
             }",
            vec![json!({ "messageId": "1", "event": "Order", "properties": { "order_id": 7, "products": [{ "sku": "a" }, { "sku": "b" }] } }), json!({ "messageId": "2", "properties": {} })],
            vec![
                (0, json!({ "messageId": "1", "event": "Product Bought", "properties": { "order_id": 7, "sku": "a", "position": 0 } })),
                (0, json!({ "messageId": "1", "event": "Product Bought", "properties": { "order_id": 7, "sku": "b", "position": 1 } })),
                (1, Value::Null),
            ],
        ),
        (
            "query parameters become campaign members",
            "export function transformEvent(event) {
               const query = (event.context?.page?.url ?? '').split('?')[1] ?? '';
               const utm = Object.fromEntries(query.split('&').map(p => p.split('=').map(decodeURIComponent)).filter(([k]) => k.startsWith('utm_')).map(([k, v]) => [k.slice(4), v]));
               if (Object.keys(utm).length) event.context.campaign = utm;
               return event;
             }",
            vec![json!({ "messageId": "1", "context": { "page": { "url": "https://s.com/?utm_source=news%20letter&x=1&utm_medium=mail" } } })],
            vec![(0, json!({ "messageId": "1", "context": { "page": { "url": "https://s.com/?utm_source=news%20letter&x=1&utm_medium=mail" }, "campaign": { "source": "news letter", "medium": "mail" } } }))],
        ),
        (
            "keys become snake case at every depth",
            "const snake = (k) => k.replace(/([a-z0-9])([A-Z])/g, '$1_$2').replace(/[\\s-]+/g, '_').toLowerCase();
             const walk = (v) => Array.isArray(v) ? v.map(walk) : v && typeof v === 'object' ? Object.fromEntries(Object.entries(v).map(([k, x]) => [snake(k), walk(x)])) : v;
             export function transformEvent(event) { event.properties = walk(event.properties); return event; }",
            vec![json!({ "messageId": "1", "properties": { "orderId": 1, "Line Items": [{ "unitPrice": 2 }], "x": null } })],
            vec![(0, json!({ "messageId": "1", "properties": { "order_id": 1, "line_items": [{ "unit_price": 2 }], "x": null } }))],
        ),
        (
            "prices are numbers with two digits and a currency",
            "export function transformEvent(event) {
               const p = event.properties;
               const price = parseFloat(String(p.price).replace(/[^0-9.,-]/g, '').replace(',', '.'));
               if (Number.isNaN(price)) throw new Error(`no price in ${event.messageId}`);
               p.price = Math.round(price * 100) / 100; p.label = p.price.toFixed(2) + ' ' + (p.currency || 'EUR');
               return event;
             }",
            vec![json!({ "messageId": "1", "properties": { "price": "\u{20ac} 19,999" } }), json!({ "messageId": "2", "properties": { "price": 5, "currency": "USD" } })],
            vec![(0, json!({ "messageId": "1", "properties": { "price": 20, "label": "20.00 EUR" } })), (1, json!({ "messageId": "2", "properties": { "price": 5, "currency": "USD", "label": "5.00 USD" } }))],
        ),
        (
            "only some sources and types pass",
            "export function transformEvent(event, metadata) {
               const { sourceId } = metadata(event);
               return sourceId === 'src1' && ['track', 'identify'].includes(event.type) ? event : null;
             }",
            vec![json!({ "messageId": "1", "type": "page" }), json!({ "messageId": "2", "type": "track" })],
            vec![(0, Value::Null), (1, json!({ "messageId": "2", "type": "track" }))],
        ),
        (
            "duplicates of a batch are removed",
            "export function transformBatch(events) {
               const seen = new Set();
               return events.filter(e => { const k = `${e.userId}|${e.event}`; if (seen.has(k)) return false; seen.add(k); return true; });
             }",
            vec![json!({ "messageId": "1", "userId": "u", "event": "a" }), json!({ "messageId": "2", "userId": "u", "event": "a" }), json!({ "messageId": "3", "userId": "v", "event": "a" })],
            vec![(1, Value::Null), (0, json!({ "messageId": "1", "userId": "u", "event": "a" })), (2, json!({ "messageId": "3", "userId": "v", "event": "a" }))],
        ),
        (
            "a batch is summed up by user",
            "export function transformBatch(events) {
               const sums = events.reduce((m, e) => m.set(e.userId, (m.get(e.userId) ?? 0) + e.properties.value), new Map());
               return [...sums].map(([userId, total]) => ({ type: 'track', event: 'Sum', userId, properties: { total } }));
             }",
            vec![json!({ "messageId": "1", "userId": "u", "properties": { "value": 0.1 } }), json!({ "messageId": "2", "userId": "u", "properties": { "value": 0.2 } })],
            vec![(0, Value::Null), (1, Value::Null), (-1, json!({ "type": "track", "event": "Sum", "userId": "u", "properties": { "total": 0.300_000_000_000_000_04 } }))],
        ),
        (
            "times are shown in another form",
            "export function transformEvent(event) {
               const at = new Date(event.timestamp);
               event.day = at.toISOString().slice(0, 10); event.hour = at.getUTCHours(); event.unix = Math.floor(at.getTime() / 1000);
               event.text = typeof (1234.5).toLocaleString() + typeof at.toLocaleString();
               return event;
             }",
            vec![json!({ "messageId": "1", "timestamp": "2025-03-10T12:00:10.000+02:00" })],
            vec![(0, json!({ "messageId": "1", "timestamp": "2025-03-10T12:00:10.000+02:00", "day": "2025-03-10", "hour": 10, "unix": 1_741_600_810, "text": "stringstring" }))],
        ),
        (
            "an enrichment that fails leaves the event as it was",
            "export async function transformEvent(event) {
               const plan = await fetch('http://127.0.0.1:1/plans/' + event.userId);
               if (plan !== 'ERROR') event.plan = plan.name;
               return event;
             }",
            vec![json!({ "messageId": "1", "userId": "u" })],
            vec![(0, json!({ "messageId": "1", "userId": "u" }))],
        ),
        (
            "user agents are told apart",
            "export function transformEvent(event) {
               const ua = event.context?.userAgent || '';
               const found = ua.match(/(?<name>Firefox|Chrome)\\/(?<major>\\d+)/u)?.groups;
               event.browser = found ? { ...found } : null;
               event.mobile = /(?<!Not)Mobile/.test(ua);
               return event;
             }",
            vec![json!({ "messageId": "1", "context": { "userAgent": "X Chrome/120.0 Mobile" } })],
            vec![(0, json!({ "messageId": "1", "context": { "userAgent": "X Chrome/120.0 Mobile" }, "browser": { "name": "Chrome", "major": "120" }, "mobile": true }))],
        ),
        (
            "a track event is accompanied by an identify event",
            "export const transformEvent = async (event) => [event, { type: 'identify', userId: event.userId, traits: { last: event.event, tags: [...new Set(['b', 'a', 'b'])].sort() } }];",
            vec![json!({ "messageId": "1", "userId": "\u{fc}", "event": "\u{1f600}" })],
            vec![(0, json!({ "messageId": "1", "userId": "\u{fc}", "event": "\u{1f600}" })), (0, json!({ "type": "identify", "userId": "\u{fc}", "traits": { "last": "\u{1f600}", "tags": ["a", "b"] } }))],
        ),
    ]
}

#[tokio::test]
async fn transformations_of_the_kind_that_people_write_give_what_they_expect() {
    let engine = engine(|_| {});
    for (name, code, messages, expected) in cases() {
        let results: Vec<(i64, Value)> =
            run(&engine, code, &messages).await.into_iter().map(|(place, _, output)| (place, output)).collect();
        assert_eq!(results, expected, "{name}");
    }
}
