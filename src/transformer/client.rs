//! One bounded request to a transformer.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{RequestBuilder, Response, StatusCode, redirect};

/// Redirects that are followed, all to the same origin.
const MOST_REDIRECTS: usize = 5;
/// A transformer that is behind a balancer is to be met anew soon.
const IDLE: Duration = Duration::from_secs(5);

/// Goes straight to the transformer and follows it nowhere else.
#[derive(Debug, Default)]
pub struct Client {
    /// Made at the first call: most nodes have no transformer. `None` = it cannot be made.
    http: OnceLock<Option<reqwest::Client>>,
}

/// A request with a JSON body.
#[derive(Debug)]
pub struct Call<'a> {
    /// Where to.
    pub url: &'a str,
    /// Headers besides the content type.
    pub headers: &'a [(&'static str, &'static str)],
    /// The body.
    pub body: Bytes,
    /// Longest time until the answer is whole.
    pub timeout: Duration,
    /// Most bytes of the answer, decompressed.
    pub max_bytes: u64,
}

/// An answer of any status.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, decompressed.
    pub body: Bytes,
}

/// Why there is no answer. Names no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// This process cannot make requests.
    #[error("no client could be made")]
    NoClient,
    /// The time was over.
    #[error("it does not answer in time")]
    Late,
    /// Nobody listens there.
    #[error("it cannot be connected to")]
    Unreachable,
    /// The connection ended before the answer was whole.
    #[error("the connection ended early")]
    CutOff,
    /// The answer is larger than allowed.
    #[error("its answer is too large")]
    TooLarge,
}

impl Client {
    /// Sends a request.
    ///
    /// # Errors
    /// There is no whole answer.
    pub async fn post(&self, call: Call<'_>) -> Result<Answer, Fault> {
        let mut request = self
            .http()?
            .post(call.url)
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .timeout(call.timeout)
            .body(call.body);
        for (name, value) in call.headers {
            request = request.header(*name, *value);
        }
        answer(request, call.max_bytes).await
    }

    /// Asks for a document.
    ///
    /// # Errors
    /// There is no whole answer.
    pub async fn get(&self, url: &str, timeout: Duration, max_bytes: u64) -> Result<Answer, Fault> {
        answer(self.http()?.get(url).timeout(timeout), max_bytes).await
    }

    fn http(&self) -> Result<&reqwest::Client, Fault> {
        self.http.get_or_init(client).as_ref().ok_or(Fault::NoClient)
    }
}

async fn answer(request: RequestBuilder, max_bytes: u64) -> Result<Answer, Fault> {
    let fault = |error: &reqwest::Error| {
        if error.is_timeout() {
            Fault::Late
        } else if error.is_connect() {
            Fault::Unreachable
        } else {
            Fault::CutOff
        }
    };
    let mut response: Response = request.send().await.map_err(|error| fault(&error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| fault(&error))? {
        if (body.len() + piece.len()) as u64 > max_bytes {
            return Err(Fault::TooLarge);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Answer { status, headers, body: Bytes::from(body) })
}

fn client() -> Option<reqwest::Client> {
    let same_origin = redirect::Policy::custom(|attempt| {
        let first = attempt.previous().first().map(reqwest::Url::origin);
        if attempt.previous().len() > MOST_REDIRECTS || first != Some(attempt.url().origin()) {
            attempt.stop()
        } else {
            attempt.follow()
        }
    });
    reqwest::Client::builder().no_proxy().referer(false).redirect(same_origin).pool_idle_timeout(IDLE).build().ok()
}
