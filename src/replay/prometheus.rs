//! The query API of Prometheus.

use std::collections::BTreeMap;

use serde::Deserialize;
use url::form_urlencoded;

use crate::http_client::{ANSWER_WITHIN, Address, Answer, Header, HttpClient};

pub type Labels = BTreeMap<String, String>;

/// A client of one Prometheus.
#[derive(Clone)]
pub struct PrometheusApi {
    address: Address,
    client: HttpClient,
}

#[derive(Deserialize)]
struct Response {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<FoundSeries>,
}

/// A series of an answer.
#[derive(Deserialize)]
pub(super) struct FoundSeries {
    pub(super) metric: Labels,
    /// The sample of an instant vector.
    value: Option<(f64, String)>,
    /// The samples of a matrix.
    #[serde(default)]
    values: Vec<(f64, String)>,
}

impl FoundSeries {
    /// The samples: Unix milliseconds, ascending, and values.
    pub(super) fn samples(&self) -> impl Iterator<Item = (i64, f64)> {
        let samples = self.value.iter().chain(&self.values);
        samples.filter_map(|(at, value)| Some((millis(*at), value.parse().ok()?)))
    }
}

impl PrometheusApi {
    /// Makes a client that sends these headers with each query.
    #[must_use]
    pub fn new(address: Address, headers: Vec<Header>) -> Self {
        Self { address, client: HttpClient::new(headers, ANSWER_WITHIN) }
    }

    /// The address of the server.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Sends a query to `api/v1/{path}`, which must answer with an instant vector or a matrix.
    ///
    /// # Errors
    /// Why there is no answer, or what the server said.
    pub(super) fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Vec<FoundSeries>, String> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let address = self.address.below(&format!("api/v1/{path}"));
        let answer = self.client.post(&address, &form, body.as_bytes()).map_err(|error| error.to_string())?;
        let Answer { status: 200, body, .. } = &answer else { return Err(answer.excerpt()) };
        let response: Response = serde_json::from_str(body).map_err(|error| error.to_string())?;
        Ok(response.data.result)
    }
}

/// Formats labels as `name="value",…`, escaped, without braces.
#[must_use]
pub fn label_text(labels: &Labels) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect::<Vec<_>>().join(",")
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "Prometheus keeps times as whole milliseconds in 64 bits"
)]
fn millis(seconds: f64) -> i64 {
    (seconds * 1e3).round() as i64
}
