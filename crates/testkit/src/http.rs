//! A plain HTTP client: one request, one response of any status.

use std::time::Duration;

use ureq::Agent;

/// A server's response. Header names are in lower case.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body as it came, compressed or not.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body, which must be UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Sends a GET with the given headers.
///
/// # Errors
///
/// If there is no response; any status is one.
pub async fn get(url: &str, headers: &[(&str, &str)]) -> Result<Response, String> {
    let url = url.to_owned();
    let headers: Vec<_> = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    tokio::task::spawn_blocking(move || get_blocking(&url, &headers)).await.unwrap()
}

/// Sends a POST without a body.
///
/// # Errors
///
/// If there is no response; any status is one.
pub async fn post(url: &str) -> Result<Response, String> {
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
