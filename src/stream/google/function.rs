//! Calls of functions over HTTP (router.md 18).
//!
//! A function that takes longer than its time has been called, so that counts as delivered.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;

use super::super::caller::NoReply;
use super::super::fault::Fault;
use super::Setup;
use super::account::Purpose;

/// Longest wait for a function's answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Code of a call that was not waited for to the end.
const ACCEPTED: i32 = 202;
/// Characters of an answer that are kept.
const KEPT: usize = 1000;

/// Calls the function with the events.
pub(super) async fn call(setup: &Setup, payload: &[u8], timeout: Duration) -> Result<(), Fault> {
    let url = setup.base.clone();
    let purpose = Purpose::Identity(url.to_string());
    let reply = setup.call(Method::POST, url, purpose, Bytes::copy_from_slice(payload), timeout.min(PATIENCE)).await?;
    match reply {
        Ok(reply) if reply.status == 200 => Ok(()),
        Ok(reply) => {
            let text: String = String::from_utf8_lossy(&reply.body).chars().take(KEPT).collect();
            Err(Fault::Answered { code: i32::from(reply.status), text: format!("[GOOGLE_CLOUD_FUNCTION] {text}") })
        }
        Err(NoReply::TooLate(_)) => {
            Err(Fault::Answered { code: ACCEPTED, text: "the function was called and not waited for".to_owned() })
        }
        Err(why) => Err(why.into()),
    }
}
