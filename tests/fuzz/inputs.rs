//! Rules that make inputs.

use proptest::collection::vec;
use proptest::prelude::*;

/// Pieces that mean something to somebody on the way.
const WORDS: &[&str] = &[
    "batch",
    "type",
    "track",
    "identify",
    "userId",
    "anonymousId",
    "messageId",
    "properties",
    "traits",
    "context",
    "ip",
    "integrations",
    "All",
    "originalTimestamp",
    "sentAt",
    "rudderId",
    "__proto__",
    "constructor",
    "header",
    "fullPath",
    "appendPath",
    "statusCode",
    "receivedAt",
    "library",
    "sources",
    "job_run_id",
    "channel",
    "event",
    "",
    "\u{0}",
    "\u{feff}",
    "\u{202e}",
    "\u{1b}[2J",
    "2024-02-30T25:61:61Z",
    "9999-12-31T23:59:60+14:00",
    "-1",
    "1e999",
];
/// Broken or extreme bytes.
const FRAGMENTS: &[&[u8]] = &[
    b"\xff\xfe",
    b"\\ud83d",
    b"\\u0000",
    b"1e400",
    b"-0",
    b"0.",
    b"9999999999999999999999",
    b"[[[[[[[[",
    b"{\"a\":",
    b"}}",
    b"\"",
    b"\\",
    b"null",
    b"\r\n",
    b"\r\n\r\n",
    b"\x00",
    b",,",
    b"\x1f\x8b\x08",
    b"{{ a || b }}",
    b"env.PATH",
    b"%00",
    b"%2e%2e%2f",
    b"../",
];

/// JSON that looks like events, with surprises.
pub fn json() -> BoxedStrategy<String> {
    let text = prop_oneof![
        4 => proptest::sample::select(WORDS).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let quoted = text.prop_map(|text| serde_json::Value::from(text).to_string()).boxed();
    let leaf = prop_oneof![
        quoted.clone(),
        Just("null".to_owned()),
        any::<bool>().prop_map(|flag| flag.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| serde_json::Value::from(number).to_string()),
        proptest::sample::select(vec!["1e308", "-0", "0.1e-400", "18446744073709551616", "1E5"])
            .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        let members = vec((quoted.clone(), inner.clone()), 0..8).prop_map(|members| {
            let members: Vec<String> = members.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
            format!("{{{}}}", members.join(","))
        });
        prop_oneof![2 => members, 1 => vec(inner, 0..8).prop_map(|items| format!("[{}]", items.join(",")))]
    })
    .boxed()
}

/// A track event with any members beside what it needs.
pub fn event() -> BoxedStrategy<String> {
    (json(), json(), proptest::sample::select(WORDS))
        .prop_map(|(properties, context, key)| {
            let key = serde_json::Value::from(key);
            format!(r#"{{"userId":"u","type":"track","event":"E","properties":{properties},"context":{context},{key}:{properties}}}"#)
        })
        .boxed()
}

/// Any bytes, mostly few.
pub fn bytes() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![4 => vec(any::<u8>(), 0..64), 1 => vec(any::<u8>(), 0..4096)].boxed()
}

/// Inputs of the corpus, cut, repeated, flipped and mixed.
pub fn damaged(known: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damage = (0_u8..6, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>());
    (proptest::sample::select(known.clone()), proptest::sample::select(known), vec(damage, 1..6)).prop_map(
        |(mut input, other, damages)| {
            for (kind, from, to, byte) in damages {
                let (a, b) = (from.index(input.len() + 1), to.index(input.len() + 1));
                let (a, b) = (a.min(b), a.max(b));
                match kind {
                    0 => input.truncate(b),
                    1 => drop(input.drain(a..b)),
                    2 => {
                        let piece = input[a..b.min(a + 512)].to_vec();
                        input.splice(a..a, piece);
                    }
                    3 => {
                        let at = from.index(input.len().max(1));
                        if let Some(there) = input.get_mut(at) {
                            *there ^= byte;
                        }
                    }
                    4 => {
                        let fragment = FRAGMENTS[usize::from(byte) % FRAGMENTS.len()];
                        input.splice(a..a, fragment.iter().copied());
                    }
                    _ => {
                        let piece = &other[to.index(other.len() + 1)..];
                        input.splice(a.., piece.iter().copied());
                    }
                }
            }
            input.truncate(1 << 18);
            input
        },
    )
}
