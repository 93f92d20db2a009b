//! One HTTP request, as a new client would send it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONNECTION, HOST};
use reqwest::redirect::Policy;
use tokio::time::Instant;

/// How much of an answer's body is read: enough to see that it comes.
const BODY_LIMIT: usize = 64 * 1024;

/// The head of an answer whose body came too.
pub(super) struct Answer {
    /// Status code.
    pub status: u16,
    /// Time from the request, connecting included, to the head of the answer.
    pub latency: Duration,
}

/// Builds the client that all requests share: it follows no redirect, uses no proxy of the environment, and opens a connection for
/// every request, because a kept one says nothing about whether new clients get in.
///
/// # Errors
/// If TLS cannot be set up.
pub(super) fn build() -> Result<reqwest::Client, String> {
    // Only plain HTTP is spoken, but the library wants a cryptography provider all the same; given here, nothing global is needed.
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(Policy::none())
        .pool_max_idle_per_host(0)
        .http1_only()
        .user_agent(concat!("handover/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| reason(&error))
}

/// Sends a GET for `url` with this `Host` and reads the answer.
///
/// # Errors
/// Why there was no answer, as a fragment.
pub(super) async fn get(client: &reqwest::Client, url: &str, host: &str) -> Result<Answer, String> {
    let began = Instant::now();
    let request = client.get(url).header(HOST, host).header(CONNECTION, "close");
    let mut response = request.send().await.map_err(|error| reason(&error))?;
    let answer = Answer { status: response.status().as_u16(), latency: began.elapsed() };
    let mut read = 0;
    while read < BODY_LIMIT {
        match response.chunk().await {
            Ok(Some(chunk)) => read += chunk.len(),
            Ok(None) => break,
            Err(error) => {
                return Err(format!("it broke its answer {} off: {}", answer.status, reason(&error)));
            }
        }
    }
    Ok(answer)
}

/// The innermost cause in plain words: the library's own message stops at "error sending request".
fn reason(error: &reqwest::Error) -> String {
    let mut innermost: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    match innermost.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(io::ErrorKind::ConnectionReset) => "the connection was reset".to_owned(),
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => "no route to it".to_owned(),
        _ if error.is_builder() => format!("the request cannot be made: {innermost}"),
        _ => innermost.to_string(),
    }
}
