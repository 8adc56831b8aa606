//! The routes against their OpenAPI document, tried out by a tool that makes requests from it.

use std::process::Command;

use serde_json::json;

use crate::kit::{Client, NodeBuilder, WRITE_KEY, Workspace, missing_tool, skip, tools};

/// What must hold of every answer. The statuses 5xx of the document need what the tool does not do (broken
/// compression, a full disk), so here there is none.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance";

#[test]
fn every_answer_is_one_that_the_openapi_document_describes() {
    if let Some(reason) = missing_tool("schemathesis/bin/schemathesis") {
        assert!(std::env::var_os("CI").is_none(), "{reason}");
        return skip("api", &reason);
    }
    let workspace = Workspace::new().webhook_source("wk-hook", "webhook", json!({}));
    let mut node = NodeBuilder::new()
        .workspace(&workspace)
        .more_settings("\n[Gateway]\ninternalEndpointsEnabled = true\n")
        .start();
    let base = format!("http://{}", node.address());
    let tool = tools().expect("missing_tool was asked first").join("schemathesis/bin/schemathesis");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api");
    let work = tempfile::tempdir().expect("a folder");
    let output = Command::new(&tool)
        .arg("--config-file")
        .arg(folder.join("schemathesis.toml"))
        .arg("run")
        .arg(format!("{base}/docs/openapi.json"))
        .args(["--url", &base, "--auth", &format!("{WRITE_KEY}:"), "--checks", CHECKS, "--no-color"])
        .args(["--continue-on-failure", "--workers", "1"])
        .current_dir(work.path())
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .expect("schemathesis runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    assert!(node.is_running());
    let good = Client::new(node.address()).post("/v1/track", WRITE_KEY, r#"{"userId":"u"}"#).expect("an answer");
    assert_eq!(good.status, 200);
}
