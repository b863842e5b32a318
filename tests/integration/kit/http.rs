//! A plain HTTP client: one request, one answer, whatever its status.

use std::time::Duration;

use ureq::Agent;

/// What a server answered. Header names are in lower case.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body, which must be UTF-8.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// GET with the given request headers. The error is for "no answer": any status is an answer.
pub(crate) async fn get(url: &str, headers: &[(&str, &str)]) -> Result<Response, String> {
    let url = url.to_owned();
    let headers: Vec<_> = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    tokio::task::spawn_blocking(move || get_blocking(&url, &headers)).await.unwrap()
}

/// POST without a body.
pub(crate) async fn post(url: &str) -> Result<Response, String> {
    let url = url.to_owned();
    tokio::task::spawn_blocking(move || read(&url, agent().post(&url).send_empty())).await.unwrap()
}

fn get_blocking(url: &str, headers: &[(String, String)]) -> Result<Response, String> {
    let request = headers.iter().fold(agent().get(url), |request, (name, value)| request.header(name, value));
    read(url, request.call())
}

fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(20)))
        .proxy(None)
        .build()
        .into()
}

fn read(
    url: &str,
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Response, String> {
    let mut response = answer.map_err(|error| format!("{url}: {error}"))?;
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let body = response
        .body_mut()
        .with_config()
        .limit(1 << 30)
        .read_to_vec()
        .map_err(|error| format!("{url}: {error}"))?;
    Ok(Response { status: response.status().as_u16(), headers, body })
}
