//! The contract of processor.md 7.4 to 7.8 where the text of a result matters, and requests to a real server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::settings::{Live, Settings};

/// An engine with changed settings.
pub(super) fn engine(change: impl FnOnce(&mut crate::settings::TransformSettings)) -> Engine {
    let mut settings = Settings::defaults();
    change(&mut settings.transform);
    Engine::new(Live::new(settings))
}

pub(super) fn code(text: &str) -> Arc<Code> {
    Arc::new(Code::new("", "v1", Contract::Module, text.to_owned(), Vec::new(), Vec::new()))
}

pub(super) fn event(message: Value) -> Event {
    let message_id = message["messageId"].as_str().unwrap_or_default().to_owned();
    let metadata = json!({ "messageId": message_id, "sourceId": "src1", "destinationId": "dst1" }).to_string();
    Event { message: message.to_string(), metadata, message_id }
}

pub(super) fn batch(code: &Arc<Code>, messages: &[Value]) -> Batch {
    let events: Vec<Event> = messages.iter().cloned().map(event).collect();
    Batch { code: Arc::clone(code), events: events.into(), lane: 0, keeps_logs: false }
}

pub(super) fn numbered(count: usize) -> Vec<Value> {
    (1..=count).map(|n| json!({ "type": "track", "event": "Seen", "messageId": format!("m{n}") })).collect()
}

/// Per result: place (or -1), status, and the output or the error.
pub(super) fn shown(reply: &Reply) -> Vec<(i64, u16, Value)> {
    let one = |result: &Transformed| {
        let place = match &result.origin {
            Origin::Event(at) => i64::try_from(*at).unwrap(),
            Origin::Fresh { .. } => -1,
            Origin::All => -2,
        };
        let what = match &result.verdict {
            Verdict::Output(text) => serde_json::from_str(text).unwrap(),
            Verdict::Dropped => Value::Null,
            Verdict::Failed { error, .. } => Value::from(error.as_str()),
        };
        (place, result.verdict.status(), what)
    };
    reply.results.iter().map(one).collect()
}

pub(super) async fn run(engine: &Engine, text: &str, messages: &[Value]) -> Vec<(i64, u16, Value)> {
    shown(&engine.run(batch(&code(text), messages)).await)
}

#[tokio::test]
async fn results_come_in_the_order_of_the_events_even_when_they_finish_in_another() {
    let text = "export async function transformEvent(event) {
        if (event.messageId === 'm1') for (let i = 0; i < 50; i++) await null;
        return event;
    }";
    let places: Vec<i64> =
        run(&engine(|_| {}), text, &numbered(3)).await.into_iter().map(|(place, ..)| place).collect();
    assert_eq!(places, [0, 1, 2]);
}

#[tokio::test]
async fn what_is_thrown_is_told_with_name_place_and_v8s_words() {
    let engine = engine(|_| {});
    let table = [
        (
            "export function transformEvent(event) {\n  return event.a.b;\n}",
            "TypeError: Cannot read properties of undefined (reading 'b')\n    at transformEvent (base transformation:2:",
        ),
        ("export function transformEvent(event) {\n  throw 'x';\n}", "x"),
        (
            "export function transformEvent(event) {\n  throw { message: 'm', code: 5 };\n}",
            "{\"message\":\"m\",\"code\":5}",
        ),
        (
            "class Odd extends Error { get name() { return 'Odd'; } }\nfunction deep() { throw new Odd('far'); }\nexport function transformEvent() { deep(); }",
            "Odd: far\n    at deep (base transformation:2:",
        ),
        (
            "export async function transformEvent() { await null; nope(); }",
            "ReferenceError: nope is not defined\n    at transformEvent (base transformation:1:",
        ),
        (
            "export function transformEvent() { return Promise.reject(new RangeError('r')); }",
            "RangeError: r\n    at transformEvent (",
        ),
        ("import 'x';\nthis is no code", "SyntaxError: "),
        ("throw new Error('top');\nexport function transformEvent() {}", "Error: top"),
        ("await new Promise(() => {});\nexport function transformEvent() {}", "Error: Error: Timed out"),
        (
            "export function transformEvent() { return import('nope'); }",
            "Error: import from nope failed. Module not found.",
        ),
        (
            "export function transformEvent() { const o = {}; o.o = o; return o; }",
            "TypeError: Converting circular structure to JSON",
        ),
        (
            "export function transformEvent(e) { return { ...e, n: 10n }; }",
            "TypeError: Do not know how to serialize a BigInt",
        ),
        ("export function transformEvent(e) { return { f: () => 1 }; }", "TypeError: () => 1 could not be cloned."),
        (
            "export function transformEvent(e) { return new Map(); }",
            "returned event from transformEvent(event) is not an object",
        ),
        (
            "export function transformEvent(e) { return () => e; }",
            "returned event from transformEvent(event) is not an object",
        ),
        (
            "export function transformEvent(e) { return { toJSON() { return [1]; } }; }",
            "returned event in events from user transformation is not an object. transformationVersionId:v1 and returned event: [1]",
        ),
        (
            "export function transformEvent(e) { return getCredential(); }",
            "TypeError: Key should be valid and defined\n",
        ),
        ("export function transformEvent(e) { return new Array(1001).fill(e); }", "transformation output too large"),
        ("export const transformEvent = 5;", "Error: Expected one of transformEvent,transformBatch. Found "),
    ];
    for (text, expected) in table {
        let results = run(&engine, text, &numbered(1)).await;
        let (place, status, error) = &results[0];
        assert_eq!((*place, *status, results.len()), (0, 400, 1), "{text}: {results:?}");
        assert!(error.as_str().unwrap().starts_with(expected), "{text}\n  gave {error}\n  not {expected:?}");
    }
}

#[tokio::test]
async fn outputs_are_copied_as_json() {
    let text =
        "class Shop { constructor() { this.a = 1; this.u = undefined; this.at = new Date(0); this.m = new Map(); } }
        export function transformEvent() { return new Shop(); }";
    let results = run(&engine(|_| {}), text, &numbered(1)).await;
    assert_eq!(results, [(0, 200, json!({ "a": 1, "at": "1970-01-01T00:00:00.000Z", "m": {} }))]);
}

#[tokio::test]
async fn an_old_script_gives_events_of_its_own() {
    let script =
        |text: &str| Arc::new(Code::new("Old", "v0", Contract::Script, text.to_owned(), Vec::new(), Vec::new()));
    let engine = engine(|_| {});
    let keeps = script("function transform(events) { return events.map(e => ({ ...e, s: metadata(e).sourceId })); }");
    let reply = engine.run(batch(&keeps, &numbered(2))).await;
    let kinds: Vec<(i64, u16)> = shown(&reply).into_iter().map(|(place, status, _)| (place, status)).collect();
    assert_eq!(kinds, [(0, 298), (1, 298), (-1, 200), (-1, 200)]);
    assert_eq!(shown(&reply)[2].2["s"], "src1");
    let missing = shown(&engine.run(batch(&script("let x = 1;"), &numbered(1))).await);
    assert_eq!(missing, [(0, 400, json!("ReferenceError: transform is not defined"))]);
}

#[tokio::test]
async fn libraries_are_imported_by_name_and_import_nothing_themselves() {
    let engine = engine(|_| {});
    let with = |text: &str| {
        let library = |specifier: &str, text: &str| Library { specifier: specifier.to_owned(), text: text.to_owned() };
        let libraries = vec![
            library("tools", "export const two = 2; export default (x) => x * two; export function bad() { null.x }"),
            library("@rs/hash/v1", "export const h = 'h';"),
            library("greedy", "import { two } from 'tools'; export const x = two;"),
            library("broken", "export const ="),
        ];
        Arc::new(Code::new("Uses", "v1", Contract::Module, text.to_owned(), libraries, Vec::new()))
    };
    let table = [
        (
            "import twice, { two } from 'tools'; import * as all from 'tools'; import { h } from '@rs/hash/v1';
          export function transformEvent() { return { a: twice(4), two, same: all.two === two, h }; }",
            Ok(json!({ "a": 8, "two": 2, "same": true, "h": "h" })),
        ),
        (
            "import { x } from 'greedy'; export function transformEvent() { return { x }; }",
            Err("Error: import from tools failed. Module not found."),
        ),
        (
            "import { x } from './tools'; export function transformEvent() { return { x }; }",
            Err("Error: import from ./tools failed. Module not found."),
        ),
        ("import { x } from 'broken'; export function transformEvent() { return { x }; }", Err("SyntaxError: ")),
        (
            "export async function transformEvent() { return (await import('tools')).two; }",
            Err("Error: import from tools failed. Module not found."),
        ),
        (
            "import { bad } from 'tools'; export function transformEvent() { bad(); }",
            Err("TypeError: Cannot read properties of null (reading 'x')\n    at bad (library tools:1:"),
        ),
    ];
    for (text, expected) in table {
        let results = shown(&engine.run(batch(&with(text), &numbered(1))).await);
        match expected {
            Ok(output) => assert_eq!(results, [(0, 200, output)], "{text}"),
            Err(error) => {
                assert!(results[0].2.as_str().is_some_and(|told| told.starts_with(error)), "{text}: {results:?}");
            }
        }
    }
}

#[tokio::test]
async fn log_lines_are_kept_in_test_runs_only() {
    let engine = engine(|_| {});
    let talks = code(
        "export function transformEvent(e) { log('a', 5, { b: [1] }, null); for (let i = 0; i < 2000; i++) log('x'.repeat(5000)); return e; }",
    );
    assert!(engine.run(batch(&talks, &numbered(1))).await.logs.is_empty());
    let reply = engine.run(Batch { keeps_logs: true, ..batch(&talks, &numbered(1)) }).await;
    assert_eq!((reply.logs.len(), reply.logs[0].as_str()), (1_000, "Log: a 5 {\"b\":[1]} null"));
    assert!(reply.logs[1].len() < 5_000 && reply.logs[1].ends_with("..."));
    assert_eq!(reply.logs[999], "... more lines are not shown");
}

/// A server that answers every request by its path.
async fn server() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let read = connection.read(&mut head).await.unwrap_or_default();
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let answer = match path.as_str() {
                    "/slow" => {
                        std::future::pending::<()>().await;
                        String::new()
                    }
                    "/away" => {
                        "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest\r\ncontent-length: 0\r\n\r\n"
                            .to_owned()
                    }
                    "/text" => "HTTP/1.1 418 I\r\nx-kind: tea\r\ncontent-length: 5\r\nconnection: close\r\n\r\nplain"
                        .to_owned(),
                    "/large" => format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: 100002\r\nconnection: close\r\n\r\n\"{}\"",
                        "x".repeat(100_000)
                    ),
                    _ => {
                        let body = json!({ "path": path, "got": head.rsplit("\r\n\r\n").next() }).to_string();
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
                    }
                };
                if connection.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                drop(connection.shutdown().await);
            });
        }
    });
    address
}

#[tokio::test]
async fn code_sends_requests_and_reads_the_answers() {
    let address = server().await;
    let open = |settings: &mut crate::settings::TransformSettings| {
        settings.allowed_ip_ranges = vec!["127.0.0.0/8".to_owned()];
        settings.fetch_timeout = Duration::from_millis(300);
        settings.fetch_max_response_bytes = 50_000;
        settings.fetch_max_per_batch = 20;
        settings.geolocation_url = format!("http://{address}");
    };
    let engine = engine(open);
    let table = [
        ("return { r: await fetch(BASE + '/a') };", json!({ "r": { "path": "/a", "got": "" } })),
        (
            "return { r: await fetch(BASE + '/b', { method: 'POST', body: JSON.stringify({ x: 1 }), headers: { 'x-y': 1 } }) };",
            json!({ "r": { "path": "/b", "got": "{\"x\":1}" } }),
        ),
        ("return { r: await fetch(BASE + '/text') };", json!({ "r": "ERROR" })),
        (
            "const r = await fetchV2(BASE + '/text'); return { s: r.status, b: r.body, h: r.headers['x-kind'], u: r.url };",
            json!({ "s": 418, "b": "plain", "h": "tea", "u": format!("http://{address}/text") }),
        ),
        ("return { r: await fetch(BASE + '/slow') };", json!({ "r": "ERROR" })),
        ("return { r: await fetch(BASE + '/large') };", json!({ "r": "ERROR" })),
        (
            "try { await fetchV2(BASE + '/away'); } catch (e) { return { e: e.message, plain: !(e instanceof Error) }; }",
            json!({ "e": "access to 169.254.169.254 is blocked", "plain": true }),
        ),
        (
            "try { await fetchV2('file:///etc/passwd'); } catch (e) { return { e: e.message }; }",
            json!({ "e": "invalid protocol, only http and https are supported" }),
        ),
        ("try { await fetchV2(); } catch (e) { return { e: e.message }; }", json!({ "e": "fetch url is required" })),
        (
            "const all = await Promise.all(Array.from({ length: 30 }, () => fetch(BASE + '/c'))); return { bad: all.filter(r => r === 'ERROR').length };",
            json!({ "bad": 10 }),
        ),
        ("return { g: (await geolocation('1.2.3.4')).path };", json!({ "g": "/geoip/1.2.3.4" })),
        (
            "try { await geolocation('x'); } catch (e) { return { e: e.message }; }",
            json!({ "e": "invalid ip address" }),
        ),
        (
            "try { await geolocation(); } catch (e) { return { e: e.message }; }",
            json!({ "e": "ip address is required" }),
        ),
    ];
    for (body, expected) in table {
        let text =
            format!("const BASE = 'http://{address}';\nexport async function transformEvent(event) {{ {body} }}");
        assert_eq!(run(&engine, &text, &numbered(1)).await, [(0, 200, expected)], "{body}");
    }
    let closed = self::engine(|settings| settings.fetch_enabled = false);
    let text = "export async function transformEvent() { try { await geolocation('1.2.3.4') } catch (e) { return { e: e.message, r: await fetch('http://example.com') } } }";
    let refused = json!({ "e": "geolocation is not available right now", "r": "ERROR" });
    assert_eq!(run(&closed, text, &numbered(1)).await, [(0, 200, refused)]);
}

#[tokio::test]
async fn a_batch_that_waits_for_too_long_ends() {
    let address = server().await;
    let engine = engine(|settings| {
        settings.allowed_ip_ranges = vec!["127.0.0.0/8".to_owned()];
        settings.total = Duration::from_millis(200);
    });
    let text = format!("export async function transformEvent(e) {{ await fetch('http://{address}/slow'); return e; }}");
    let started = Instant::now();
    let results = run(&engine, &text, &numbered(2)).await;
    assert!(
        results.iter().all(|(_, status, error)| *status == 400 && error == "Error: Error: Timed out"),
        "{results:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn one_code_leaves_a_thread_to_the_others() {
    let engine = engine(|settings| {
        settings.threads = 2;
        settings.slice = Duration::from_millis(1_500);
    });
    let loops = code("export function transformEvent() { while (true) {} }");
    let hogs: Vec<_> = (0..6)
        .map(|_| {
            let (engine, batch) = (engine.clone(), batch(&loops, &numbered(1)));
            tokio::spawn(async move { engine.run(batch).await })
        })
        .collect();
    let started = Instant::now();
    for _ in 0..3 {
        assert_eq!(run(&engine, "export function transformEvent(e) { return {}; }", &numbered(1)).await[0].1, 200);
    }
    assert!(started.elapsed() < Duration::from_millis(1_400), "{:?}", started.elapsed());
    for hog in hogs {
        hog.abort();
    }
}
