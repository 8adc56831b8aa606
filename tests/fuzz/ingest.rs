//! A real node under fire over HTTP. What it accepts goes through its processor, a transformation and a delivery.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::kit::{Answer, Client, Node, NodeBuilder, Sink, WRITE_KEY, Workspace, basic_auth, track, wait_until};
use super::{drive, inputs};

const LIMIT: Duration = Duration::from_mins(2);

struct Target {
    node: Node,
    sink: Sink,
    client: Client,
    accepted: u64,
}

impl Target {
    fn start() -> Target {
        let sink = Sink::start();
        let workspace = Workspace::new()
            .webhook("hook", &sink.url())
            .transformed("export function transformEvent(event) { return event; }")
            .webhook("plain", &sink.url())
            .webhook_source("wk-hook", "webhook", json!({"putRequestDetailsInContext": true}))
            .webhook_source("wk-slack", "Slack", json!({}))
            .webhook_source("wk-segment", "segment", json!({}));
        let node = NodeBuilder::new().workspace(&workspace).start();
        let client = Client::new(node.address());
        Target { node, sink, client, accepted: 0 }
    }

    /// Sends a request and holds its answer against what the routes may say.
    fn request(&mut self, method: &str, path: &str, headers: &[(&str, String)], body: &[u8]) -> Answer {
        let answer = self.client.request(method, path, headers, Some(body)).expect("an answer");
        let allowed = match answer.status {
            200 | 400 | 401 | 404 | 405 | 413 => true,
            500 => answer.body == "failed to read body from request\n",
            503 => answer.header("retry-after").is_some(),
            _ => false,
        };
        assert!(allowed, "{} {}", answer.status, answer.body);
        self.accepted += u64::from(answer.status == 200);
        answer
    }

    /// The node lives, nothing in it panicked, and what it accepted was worked off.
    fn end(mut self) {
        assert!(self.node.is_running());
        let mark = track("the-end", 987_654).to_string();
        assert_eq!(self.client.post("/v1/track", WRITE_KEY, &mark).expect("an answer").status, 200);
        wait_until("what came last is delivered", LIMIT, || {
            self.sink.accepted().iter().filter(|accepted| accepted.n == Some(987_654)).count() >= 2
        });
        let output = self.node.output();
        assert!(!output.contains("panicked"), "{}", &output[output.len().saturating_sub(4000)..]);
        println!("{} requests were accepted", self.accepted);
        assert!(self.node.stop().success());
    }
}

fn authorised() -> Vec<(&'static str, String)> {
    vec![("authorization", basic_auth(WRITE_KEY)), ("content-type", "application/json".to_owned())]
}

#[test]
fn bodies_of_every_route_have_an_answer() {
    let routes = ["/v1/batch", "/v1/track", "/v1/identify", "/v1/import", "/v1/audiencelist", "/v1/merge", "/v1/t"];
    let bodies = prop_oneof![
        vec(inputs::event(), 0..6).prop_map(|events| format!("{{\"batch\":[{}]}}", events.join(","))),
        inputs::event(),
        inputs::json(),
    ]
    .prop_map(String::into_bytes);
    let rule = prop_oneof![4 => bodies, 1 => inputs::bytes()].boxed();
    let mut target = Target::start();
    let headers = authorised();
    let mut turn = 0;
    drive::run("body", rule, |body| {
        target.request("POST", routes[turn % routes.len()], &headers, body);
        turn += 1;
    });
    target.end();
}

#[test]
fn compressed_bodies_have_an_answer() {
    let gzip = |body: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(body).expect("memory");
        encoder.finish().expect("memory")
    };
    let one = inputs::event().prop_map(move |event| gzip(event.as_bytes()));
    let several = vec(inputs::event(), 1..3)
        .prop_map(move |events| events.iter().flat_map(|event| gzip(event.as_bytes())).collect::<Vec<u8>>());
    let rule = prop_oneof![2 => one, 1 => several, 1 => inputs::bytes()].boxed();
    let mut target = Target::start();
    let mut headers = authorised();
    headers.push(("content-encoding", "gzip".to_owned()));
    drive::run("gzip", rule, |body| {
        target.request("POST", "/v1/track", &headers, body);
    });
    target.end();
}

#[test]
fn webhooks_have_an_answer() {
    let forms = vec((any::<String>(), any::<String>()), 0..5).prop_map(|pairs| {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(pairs);
        form.finish()
    });
    let rule = prop_oneof![
        2 => inputs::json().prop_map(String::into_bytes),
        1 => forms.prop_map(String::into_bytes),
        1 => inputs::bytes(),
    ]
    .boxed();
    let kinds = [
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        "application/xml",
        "",
    ];
    let mut target = Target::start();
    let mut turn = 0;
    drive::run("webhook", rule, |body| {
        let key = ["wk-hook", "wk-slack", "wk-segment"][turn % 3];
        let headers = [("content-type", kinds[turn / 3 % kinds.len()].to_owned())];
        target.request("POST", &format!("/v1/webhook?writeKey={key}&a.b=1&a=%ff"), &headers, body);
        turn += 1;
    });
    target.end();
}

#[test]
fn pixels_have_an_answer() {
    let pairs = vec((inputs::bytes(), inputs::bytes()), 0..6).prop_map(|pairs| {
        let encode =
            |bytes: &[u8]| percent_encoding::percent_encode(bytes, percent_encoding::NON_ALPHANUMERIC).to_string();
        let pairs: Vec<String> =
            pairs.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
        pairs.join("&").into_bytes()
    });
    let paths = vec("[a-c0-9.\\[\\]]{0,12}", 0..8).prop_map(|keys| {
        let pairs: Vec<String> = keys.iter().map(|key| format!("{key}=1")).collect();
        pairs.join("&").into_bytes()
    });
    let mut target = Target::start();
    drive::run("pixel", prop_oneof![pairs, paths].boxed(), |query| {
        // What is no byte of a request line is another target's.
        let query: String = query
            .iter()
            .filter(|byte| byte.is_ascii_graphic() && **byte != b'#')
            .map(|byte| char::from(*byte))
            .collect();
        let query: String = query.chars().take(6_000).collect();
        let path = format!("/pixel/v1/track?writeKey={WRITE_KEY}&anonymousId=a&event=e&{query}");
        target.request("GET", &path, &[], b"");
    });
    target.end();
}

#[test]
fn heads_have_an_answer_or_an_end() {
    let names = [
        "Authorization",
        "Content-Length",
        "Transfer-Encoding",
        "AnonymousId",
        "X-Forwarded-For",
        "Host",
        "Expect",
        "Content-Encoding",
        "Origin",
    ];
    let line = (proptest::sample::select(names.to_vec()), "[ -~]{0,40}")
        .prop_map(|(name, value)| format!("{name}: {value}\r\n"));
    let heads = ("(GET|POST|OPTIONS|PUT|get|)", "(/v1/track|/health|\\*|/%00|//|)", vec(line, 0..8), inputs::bytes())
        .prop_map(|(method, path, lines, body)| {
            let mut request = format!("{method} {path} HTTP/1.1\r\n{}\r\n", lines.concat()).into_bytes();
            request.extend_from_slice(&body);
            request
        });
    let mut target = Target::start();
    let address = target.node.address();
    drive::run("head", prop_oneof![4 => heads, 1 => inputs::bytes()].boxed(), |request| {
        let mut connection = TcpStream::connect(address).expect("the node takes connections");
        connection.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
        // The node may have ended the connection before all is written.
        let _written = connection.write_all(request).and_then(|()| connection.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let _read = connection.read_to_end(&mut answer);
        for status in answer.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"HTTP/1.1 ")) {
            let status = String::from_utf8_lossy(&status[..status.len().min(3)]).into_owned();
            let is_known = matches!(
                status.as_str(),
                "100"
                    | "200"
                    | "204"
                    | "400"
                    | "401"
                    | "404"
                    | "405"
                    | "408"
                    | "413"
                    | "414"
                    | "417"
                    | "431"
                    | "500"
                    | "501"
                    | "503"
            );
            assert!(is_known, "{status} for {:?}", String::from_utf8_lossy(request));
        }
        target.accepted += u64::from(answer.starts_with(b"HTTP/1.1 200"));
    });
    target.end();
}
