//! The gates: what must hold before a deployment goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;

use super::certificate::{self, CertificateError};
use super::cluster::{Cluster, ToolError};
use super::compare::compare;
use super::deploy::{Known, Run};
use super::fleet::{Address, Certificate, Service};
use super::steps::StepError;
use super::table;
use crate::http_client::PROBE_WITHIN;

/// How often an exporter that is not ready is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest answer of `/gatewayz`.
const GATEWAYZ_LIMIT: u64 = 4 << 20;

impl Run<'_> {
    /// Each NATS server must have a gateway to each other cluster. The way back is the other cluster's own line.
    pub(super) async fn gateways(&self, cluster: &Cluster<'_>) -> Result<String, StepError> {
        #[derive(serde::Deserialize)]
        struct Gatewayz {
            #[serde(default)]
            outbound_gateways: Option<BTreeMap<String, serde_json::Value>>,
        }
        let wanted = &cluster.region.gateways;
        for monitor in &cluster.region.monitors {
            let (endpoint, _forward) = cluster.reach(monitor, "default").await?;
            let answer = self.http.get(&endpoint, "/gatewayz", GATEWAYZ_LIMIT, Vec::new());
            let failed = |source| StepError::Monitor { at: monitor.to_string(), source };
            let (status, body) = cluster.scope.within(answer).await?.map_err(failed)?;
            let gateways: Option<Gatewayz> = serde_json::from_slice(&body).ok().filter(|_| status == 200);
            let Some(gateways) = gateways else {
                return Err(StepError::Gate(format!(
                    "{monitor} does not answer like a NATS server's monitoring port"
                )));
            };
            let there = gateways.outbound_gateways.unwrap_or_default();
            let missing: Vec<_> = wanted.iter().filter(|name| !there.contains_key(*name)).cloned().collect();
            if !missing.is_empty() {
                return Err(StepError::Gate(format!(
                    "{monitor} has no gateway to {}",
                    missing.join(" and ")
                )));
            }
        }
        Ok(format!("{} from {} servers", wanted.join(" and "), cluster.region.monitors.len()))
    }

    pub(super) async fn certificates(&self, cluster: &Cluster<'_>) -> Result<String, StepError> {
        let least = self.fleet.gates.certificate_days;
        let mut seen = Vec::new();
        for which in &cluster.region.certificates {
            let end = certificate_end(cluster, which).await?;
            let days = certificate::days_left(end, OffsetDateTime::now_utc());
            if days < i64::from(least) {
                return Err(StepError::Gate(format!(
                    "certificate {which} runs out at {}, in {days} days, and {least} are demanded: renew it",
                    certificate::shown(end)
                )));
            }
            seen.push(format!("{which}: {days} days"));
        }
        Ok(seen.join(", "))
    }

    pub(super) async fn ready(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        known: &Known,
    ) -> Result<String, StepError> {
        let addresses = cluster.region.colour(service, &known.new);
        self.until_ready(cluster, service, &known.new, &addresses).await
    }

    pub(super) async fn active(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        known: &Known,
    ) -> Result<String, StepError> {
        let expected = match &known.old {
            Some(old) if self.order.request.restart_only => old,
            _ => &known.new,
        };
        self.until_ready(cluster, service, expected, &[cluster.region.active(service)]).await
    }

    /// Asks until exporters of this colour are ready, and nobody else answers.
    pub(super) async fn until_ready(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        name: &str,
        addresses: &[Address],
    ) -> Result<String, StepError> {
        let end = tokio::time::Instant::now() + self.fleet.gates.ready_within;
        loop {
            // A forwarded port leads to the pod of yesterday for ever, so it is forwarded anew each time.
            let seen = cluster.scope.within(async {
                let (colour, _forwards) = self.colour(cluster, service, name, addresses).await?;
                let readiness = colour.readiness().await?;
                let others: Vec<_> =
                    readiness.deployments.iter().filter(|other| *other != name).cloned().collect();
                if !others.is_empty() {
                    return Err(StepError::Gate(format!(
                        "{} answers instead of {name}",
                        others.join(" and ")
                    )));
                }
                if readiness.deployments.is_empty() {
                    return Err(StepError::Gate(
                        "what answers does not say which deployment it is".to_owned(),
                    ));
                }
                if !readiness.why_not.is_empty() {
                    let why = readiness.why_not.join("; ");
                    return Err(StepError::Gate(format!("{name} is not ready: {why}")));
                }
                Ok(format!("{name} is ready, {:.1} s behind the stream", readiness.lag.as_secs_f64()))
            });
            let why = match seen.await? {
                Ok(seen) => return Ok(seen),
                Err(StepError::Tool(ToolError::Cut { cut, .. })) => return Err(cut.into()),
                Err(why) => why,
            };
            if tokio::time::Instant::now() + PAUSE >= end {
                return Err(why);
            }
            cluster.scope.within(tokio::time::sleep(PAUSE)).await?;
        }
    }

    pub(super) async fn compare(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        known: &Known,
        soak: bool,
    ) -> Result<String, StepError> {
        let Some(old) = &known.old else {
            return Ok("a first installation: there is nothing to compare with".to_owned());
        };
        let addresses = |colour: &str| cluster.region.colour(service, colour);
        let (blue, _blue) = self.colour(cluster, service, old, &addresses(old)).await?;
        let (green, _green) = self.colour(cluster, service, &known.new, &addresses(&known.new)).await?;
        let terms = self.fleet.gates.terms(soak);
        let comparison = cluster.scope.within(compare(&blue, &green, &terms)).await?;
        tracing::info!(
            "{} is compared with {old}:\n{}",
            known.new,
            table::comparison(&comparison, old, &known.new)
        );
        if !comparison.go {
            return Err(StepError::Gate(format!(
                "{} does not agree with {old}: {}",
                known.new,
                comparison.reasons.join("; ")
            )));
        }
        let rows = comparison.judgement.map_or(0, |judgement| judgement.rows.len());
        let window = humantime::format_duration(terms.window);
        Ok(format!("{} agrees with {old} in {rows} measures over {window}", known.new))
    }
}

/// The chart's own test, in the cluster and as its operator: `callsight streams verify`.
pub(super) async fn streams(cluster: &Cluster<'_>, service: &Service) -> Result<String, StepError> {
    if cluster.release(service).await?.is_none() {
        return Ok("not installed yet: there is nothing to verify".to_owned());
    }
    let timeout = format!("{}s", cluster.scope.left().as_secs().max(1));
    cluster.helm(service, &["test", &service.release, "--logs", "--timeout", &timeout]).await?;
    Ok("helm test passed".to_owned())
}

async fn certificate_end(cluster: &Cluster<'_>, which: &Certificate) -> Result<OffsetDateTime, StepError> {
    let end = match which {
        Certificate::File(path) => {
            std::fs::read(path).map_err(CertificateError::from).and_then(|pem| certificate::end_of_pem(&pem))
        }
        Certificate::Secret { namespace, name, key } => {
            let encoded = cluster.secret(namespace, name, key).await?;
            let pem = STANDARD.decode(encoded.trim()).unwrap_or_default();
            certificate::end_of_pem(&pem)
        }
        Certificate::Server { host, port, nats } => {
            let asked = tokio::time::timeout(PROBE_WITHIN, certificate::end_of_server(host, *port, *nats));
            let answer = cluster.scope.within(asked).await?;
            answer.unwrap_or_else(|slow| Err(std::io::Error::other(slow).into()))
        }
    };
    end.map_err(|source| StepError::Certificate { which: which.to_string(), source })
}
