//! Code that means harm: every script ends in results, in time, and the engine works on as before.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::contract_tests::{batch, code, engine, numbered, run};

/// Longest time of code without a wait, here.
const SLICE: Duration = Duration::from_millis(500);

/// Each runs with two events, the second of which is harmless where the code tells them apart.
/// What is expected: the statuses of the two.
const SCRIPTS: &[(&str, &str, [u16; 2])] = &[
    ("a loop", "export function transformEvent(e) { for (;;) {} }", [400, 400]),
    (
        "a loop in finally",
        "export function transformEvent(e) { try { for (;;) {} } finally { for (;;) {} } }",
        [400, 400],
    ),
    (
        "a stop that is caught",
        "export function transformEvent(e) { while (true) { try { for (;;) {} } catch {} } }",
        [400, 400],
    ),
    ("a loop at the top level", "for (;;) {}\nexport function transformEvent(e) { return e; }", [400, 400]),
    ("a loop after an await", "export async function transformEvent(e) { await null; for (;;) {} }", [400, 400]),
    (
        "a generator without end",
        "function* g() { for (;;) yield 1; }\nexport function transformEvent(e) { return [...g()]; }",
        [400, 400],
    ),
    (
        "a comparator without end",
        "export function transformEvent(e) { [2, 1].sort(() => { for (;;) {} }); }",
        [400, 400],
    ),
    (
        "a proxy without end",
        "export function transformEvent(e) { return new Proxy({}, { ownKeys() { for (;;) {} } }); }",
        [400, 400],
    ),
    (
        "a getter without end in the output",
        "export function transformEvent(e) { return { get a() { for (;;) {} } }; }",
        [400, 400],
    ),
    ("a toJSON without end", "export function transformEvent(e) { return { toJSON() { for (;;) {} } }; }", [400, 400]),
    (
        "a tag without end",
        "export function transformEvent(e) { return { get [Symbol.toStringTag]() { for (;;) {} } }; }",
        [400, 400],
    ),
    ("a thenable without end", "export function transformEvent(e) { return { then(r) { for (;;) {} } }; }", [400, 400]),
    (
        "a then getter without end",
        "export function transformEvent(e) { return { get then() { for (;;) {} } }; }",
        [400, 400],
    ),
    (
        "an error name without end",
        "export function transformEvent(e) { const x = new Error('x'); Object.defineProperty(x, 'name', { get() { for (;;) {} } }); throw x; }",
        [400, 400],
    ),
    (
        "promises that call each other",
        "export async function transformEvent(e) { const f = () => Promise.resolve().then(f); await f(); return e; }",
        [400, 400],
    ),
    (
        "a storm of promises",
        "export async function transformEvent(e) { const g = async () => { await null; g(); g(); }; await g(); return e; }",
        [400, 400],
    ),
    (
        "a promise that never settles",
        "export function transformEvent(e) { return e.messageId === 'm1' ? new Promise(() => {}) : e; }",
        [400, 200],
    ),
    (
        "a regular expression that blows up",
        "export function transformEvent(e) { return e.messageId === 'm1' ? { r: /^(a+)+$/.test('a'.repeat(40) + 'b') } : e; }",
        [400, 400],
    ),
    (
        "recursion",
        "const f = () => f() + 1;\nexport function transformEvent(e) { return e.messageId === 'm1' ? f() : e; }",
        [400, 200],
    ),
    (
        "recursion through JSON",
        "export function transformEvent(e) { if (e.messageId !== 'm1') return e; let o = {}; for (let i = 0; i < 1e5; i++) o = { o }; return o; }",
        [400, 200],
    ),
    (
        "recursion through getters",
        "export function transformEvent(e) { const o = { get a() { return this.a; } }; return e.messageId === 'm1' ? o.a : e; }",
        [400, 200],
    ),
    (
        "an array that grows",
        "const a = [];\nexport function transformEvent(e) { if (e.messageId !== 'm1') return e; for (;;) a.push(new Array(1000).fill({})); }",
        [400, 200],
    ),
    (
        "a string that doubles",
        "export function transformEvent(e) { if (e.messageId !== 'm1') return e; let s = 'x'.repeat(1024); for (;;) s = s + s + Math.random(); }",
        [400, 200],
    ),
    (
        "a huge string",
        "export function transformEvent(e) { return e.messageId === 'm1' ? { s: 'x'.repeat(2 ** 30) } : e; }",
        [400, 200],
    ),
    (
        "a huge array",
        "export function transformEvent(e) { return e.messageId === 'm1' ? new Array(2e5).fill(e) : e; }",
        [400, 200],
    ),
    (
        "a huge buffer",
        "export function transformEvent(e) { return e.messageId === 'm1' ? { b: new ArrayBuffer(2 ** 31).byteLength } : e; }",
        [400, 200],
    ),
    (
        "an output with a hole in its length",
        "export function transformEvent(e) { return e.messageId === 'm1' ? new Proxy([], { get: (t, k) => k === 'length' ? 4e15 : t[k] }) : e; }",
        [400, 200],
    ),
    (
        "a getter that throws",
        "export function transformEvent(e) { return e.messageId === 'm1' ? { get a() { throw new Error('no'); } } : e; }",
        [400, 200],
    ),
    (
        "an error that cannot be shown",
        "export function transformEvent(e) { if (e.messageId === 'm1') throw { toString() { throw 1; }, toJSON() { throw 2; } }; return e; }",
        [400, 200],
    ),
    (
        "null is thrown",
        "export function transformEvent(e) { if (e.messageId === 'm1') throw null; return e; }",
        [400, 200],
    ),
    (
        "a symbol is thrown",
        "export function transformEvent(e) { if (e.messageId === 'm1') throw Symbol('s'); return e; }",
        [400, 200],
    ),
    (
        "built-ins are broken",
        "JSON.stringify = JSON.parse = () => { throw 1; }; Object.prototype.toString = () => '[object Object]'; Array.prototype[Symbol.iterator] = null; Promise.prototype.then = () => { throw 2; }; Array.isArray = () => false; globalThis.leak = 1;\nexport function transformEvent(e) { return { id: e.messageId }; }",
        [200, 200],
    ),
    (
        "prototypes are polluted",
        "Object.prototype.leak = 1; Array.prototype.leak = 2; Object.prototype.toJSON = undefined; Object.prototype.then = 5;\nexport function transformEvent(e) { return { id: e.messageId }; }",
        [200, 200],
    ),
    (
        "the global object is frozen",
        "Object.freeze(globalThis); Object.freeze(Object.prototype); Object.freeze(Function.prototype);\nexport function transformEvent(e) { return e; }",
        [200, 200],
    ),
    (
        "the helpers are replaced",
        "globalThis.fetch = globalThis.log = globalThis.metadata = null;\nexport function transformEvent(e, m) { m.x = 1; return { id: m(e).messageId }; }",
        [400, 400],
    ),
    (
        "jobs are left behind",
        "export function transformEvent(e) { const f = () => Promise.resolve().then(() => { globalThis.n = (globalThis.n ?? 0) + 1; if (globalThis.n < 1000) f(); }); f(); return e; }",
        [200, 200],
    ),
    (
        "requests are left behind",
        "export function transformEvent(e) { for (let i = 0; i < 100; i++) fetch('http://192.0.2.1/'); return e; }",
        [200, 200],
    ),
    (
        "finalizers run code",
        "const r = new FinalizationRegistry(() => { for (;;) {} });\nexport function transformEvent(e) { for (let i = 0; i < 10; i++) r.register({}, i); return e; }",
        [400, 400],
    ),
    (
        "eval and Function",
        "export function transformEvent(e) { return e.messageId === 'm1' ? new Function('for (;;) {}')() : eval('e'); }",
        [400, 400],
    ),
    (
        "a thread that would block",
        "export function transformEvent(e) { return e.messageId === 'm1' ? { w: Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0) } : e; }",
        [400, 200],
    ),
];

#[tokio::test]
async fn hostile_code_ends_in_results_in_time_and_harms_no_other_batch() {
    let engine = engine(|settings| {
        settings.slice = SLICE;
        settings.total = Duration::from_secs(20);
        settings.heap_bytes = 32 << 20;
        settings.threads = 1;
    });
    let mut wrong = Vec::new();
    for (name, text, expected) in SCRIPTS {
        let started = Instant::now();
        let results = run(&engine, text, &numbered(2)).await;
        let took = started.elapsed();
        let statuses: Vec<u16> = results.iter().map(|(_, status, _)| *status).collect();
        if statuses != expected {
            wrong.push(format!("{name}: {results:?}"));
        }
        // The limit and a fifth, and what reading results and making a new runtime takes on a busy machine.
        if took > SLICE.mul_f32(1.2) + Duration::from_millis(700) {
            wrong.push(format!("{name} took {took:?}"));
        }
        let next = run(&engine, "export function transformEvent(e) { return { leak: typeof globalThis.leak + typeof {}.leak, n: [3, 1, 2].sort().join() }; }", &numbered(1)).await;
        if next != [(0, 200, json!({ "leak": "undefinedundefined", "n": "1,2,3" }))] {
            wrong.push(format!("after {name}: {next:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn only_public_addresses_are_reached_in_every_spelling() {
    let engine = engine(|_| {});
    let urls = [
        "http://127.0.0.1:1/",
        "http://localhost:1/",
        "http://0x7f.1/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://10.1.2.3/",
        "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://192.168.0.1/",
        "http://172.31.255.255/",
        "http://198.18.0.1/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://0.0.0.0/",
        "http://[fd00:ec2::254]/",
        "http://[fe80::1]/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "http://\u{ff11}27.0.0.1/",
        "http://user:pass@127.0.0.1/",
        "not a url",
    ];
    let messages: Vec<Value> =
        urls.iter().enumerate().map(|(at, url)| json!({ "messageId": at.to_string(), "url": url })).collect();
    let text = "export async function transformEvent(e) {
        try { await fetchV2(e.url); return { reached: e.url }; } catch (error) { return { e: error.message, f: await fetch(e.url) }; }
    }";
    for ((_, status, output), url) in run(&engine, text, &messages).await.iter().zip(urls) {
        let told = output["e"].as_str().unwrap_or_default();
        let is_refused =
            ["blocked", "invalid protocol", "invalid url", "access to private"].iter().any(|word| told.contains(word));
        assert!(*status == 200 && is_refused && output["f"] == "ERROR", "{url}: {output}");
    }
}

#[tokio::test]
async fn nothing_but_the_listed_globals_is_there() {
    let text = "export function transformEvent() {
        const gone = ['setTimeout', 'queueMicrotask', 'Buffer', 'URL', 'URLSearchParams', 'TextEncoder', 'structuredClone', 'require',
            'process', 'crypto', 'atob', 'btoa', 'performance', 'DOMException', 'navigator', 'std', 'os', 'bjson', 'print', 'scriptArgs', 'fetchV3', 'host', 'gc'];
        return { there: gone.filter(name => name in globalThis), global: global === globalThis, console: Object.keys(console).length };
    }";
    let results = run(&engine(|_| {}), text, &numbered(1)).await;
    assert_eq!(results, [(0, 200, json!({ "there": [], "global": true, "console": 13 }))]);
}

#[tokio::test]
async fn too_many_keys_are_split_between_calls_and_an_event_with_too_many_fails() {
    let wide = |id: &str, from: usize, count: usize| {
        let mut event = json!({ "messageId": id });
        for n in from..from + count {
            event[format!("k{n}")] = json!(1);
        }
        event
    };
    let text = "let calls = 0;\nexport function transformEvent(e) { calls += 1; return { id: e.messageId, calls }; }";
    let messages = [wide("a", 0, 12_000), wide("b", 20_000, 12_000), wide("c", 0, 21_000)];
    let results = run(&engine(|_| {}), text, &messages).await;
    let ids: Vec<(i64, u16)> = results.iter().map(|(place, status, _)| (*place, *status)).collect();
    assert_eq!(ids, [(0, 200), (1, 200), (2, 400)]);
    assert_eq!(results[2].2, "event has too many keys");
}

/// Takes some seconds: native loops are not asked to stop.
#[tokio::test]
async fn a_thread_that_a_native_loop_holds_is_given_up_and_the_other_events_go_on() {
    let engine = engine(|settings| {
        settings.slice = Duration::from_millis(50);
        settings.threads = 1;
    });
    // Quadratic, and not under the time limit: about twenty times the limit and the grace.
    let text = "export function transformEvent(e) {
        return { n: e.messageId === 'm2' ? 'a'.repeat(6e5).indexOf('a'.repeat(3e5) + 'b') : 0 };
    }";
    let started = Instant::now();
    let results = run(&engine, text, &numbered(3)).await;
    let statuses: Vec<u16> = results.iter().map(|(_, status, _)| *status).collect();
    assert_eq!(statuses, [200, 400, 200]);
    assert_eq!(results[1].2, "Error: Script execution timed out.");
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    let other = code("export function transformEvent(e) { return {}; }");
    assert_eq!(engine.run(batch(&other, &numbered(1))).await.results[0].verdict.status(), 200);
}
