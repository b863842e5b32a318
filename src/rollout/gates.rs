//! The gates: what must hold before a deployment continues.
//!
//! Invariant: a gate changes nothing in a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;

use super::certificate::{self, CertificateError};
use super::cluster::{Cluster, ToolError};
use super::colour::Colour;
use super::compare::compare;
use super::fleet::{CertificatePlace, FleetAddress};
use super::plan::DeploymentMode;
use super::run::{Run, ServiceJob, StepError, refuse};
use super::table;
use crate::config::read_file;
use crate::http_client::{PROBE_WITHIN, json};
use crate::insight::words;

/// How often an exporter that is not ready is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest answer of `/gatewayz`, in bytes.
const GATEWAYZ_LIMIT: u64 = 4 << 20;

/// Each NATS server of the region must have a gateway to each other cluster, as `/gatewayz` shows.
/// Whether that cluster has one back is checked in its own region.
pub(super) async fn gateways(run: &Run<'_>, cluster: &Cluster<'_>) -> Result<String, StepError> {
    #[derive(serde::Deserialize)]
    struct Gatewayz {
        outbound_gateways: Option<BTreeMap<String, serde_json::Value>>,
    }
    let wanted = &cluster.region.gateways;
    for monitor in &cluster.region.monitors {
        let (endpoint, _port) = cluster.reach(monitor, "default").await?;
        let asked = run.http.get(&endpoint, "/gatewayz", GATEWAYZ_LIMIT, json::<Gatewayz>);
        let failed = |source| StepError::Monitor { at: monitor.to_string(), source };
        let (200, Ok(gateways)) = cluster.limit.within(asked).await?.map_err(failed)? else {
            return refuse(format!("{monitor} does not answer like a NATS server's monitoring port"));
        };
        let found = gateways.outbound_gateways.unwrap_or_default();
        let missing: Vec<_> = wanted.iter().filter(|name| !found.contains_key(*name)).cloned().collect();
        if !missing.is_empty() {
            return refuse(format!("{monitor} has no gateway to {}", words::list(&missing)));
        }
    }
    let servers = words::plural(cluster.region.monitors.len() as u64, "server");
    Ok(format!("{} from {servers}", words::list(wanted)))
}

/// No certificate of the region may expire within the days that the fleet requires.
pub(super) async fn certificates(run: &Run<'_>, cluster: &Cluster<'_>) -> Result<String, StepError> {
    let required = run.fleet.gates.certificate_days;
    let mut valid = Vec::new();
    for place in &cluster.region.certificates {
        let end = certificate_end(cluster, place).await?;
        let days = certificate::days_left(end, OffsetDateTime::now_utc());
        if days < i64::from(required) {
            let end = certificate::rfc3339(end);
            return refuse(format!(
                "certificate {place} expires at {end}, in {days} days, and {required} are required: renew it"
            ));
        }
        valid.push(format!("{place}: {days} days"));
    }
    Ok(valid.join(", "))
}

async fn certificate_end(
    cluster: &Cluster<'_>,
    place: &CertificatePlace,
) -> Result<OffsetDateTime, StepError> {
    let end = match place {
        CertificatePlace::File(path) => {
            read_file(path).map_err(CertificateError::from).and_then(|pem| certificate::end_of_pem(&pem))
        }
        CertificatePlace::Secret { namespace, name, key } => {
            let encoded = cluster.secret(namespace, name, key).await?;
            certificate::end_of_secret(&encoded)
        }
        CertificatePlace::Server { host, port, nats } => {
            let asked = tokio::time::timeout(PROBE_WITHIN, certificate::end_of_server(host, *port, *nats));
            let answer = cluster.limit.within(asked).await?;
            answer.unwrap_or_else(|slow| Err(std::io::Error::other(slow).into()))
        }
    };
    end.map_err(|source| StepError::Certificate { which: place.to_string(), source })
}

/// Streams and durables must be as declared: the chart's own test runs `callsight streams verify`
/// in the cluster.
pub(super) async fn streams(job: &ServiceJob<'_>) -> Result<String, StepError> {
    let ServiceJob { cluster, service, .. } = job;
    if cluster.release(service).await?.is_none() {
        return Ok("not installed yet: there is nothing to verify".to_owned());
    }
    let timeout = cluster.limit.timeout_flag();
    cluster.helm(service, &["test", &service.release, "--logs", "--timeout", &timeout]).await?;
    Ok("helm test passed".to_owned())
}

/// The new colour must become ready.
pub(super) async fn ready(job: &ServiceJob<'_>) -> Result<String, StepError> {
    let new = job.found.new_colour();
    until_ready(job, new, &job.cluster.region.addresses(job.service, new)).await
}

/// The service must lead to the colour that is active now, and that colour must become ready.
pub(super) async fn active(job: &ServiceJob<'_>) -> Result<String, StepError> {
    let expected = match job.found.old {
        Some(old) if job.run.order.request.mode == DeploymentMode::Restart => old,
        _ => job.found.new_colour(),
    };
    until_ready(job, expected, &[job.cluster.region.active_address(job.service)]).await
}

async fn until_ready(
    job: &ServiceJob<'_>,
    colour: Colour,
    addresses: &[FleetAddress],
) -> Result<String, StepError> {
    let limit = &job.cluster.limit;
    let end = tokio::time::Instant::now() + job.run.fleet.gates.ready_within;
    loop {
        let why = match limit.within(check_ready(job, colour, addresses)).await? {
            Ok(ready) => return Ok(ready),
            Err(StepError::Tool(ToolError::Cut { cut, .. })) => return Err(cut.into()),
            Err(why) => why,
        };
        if tokio::time::Instant::now() + PAUSE >= end {
            return Err(why);
        }
        limit.within(tokio::time::sleep(PAUSE)).await?;
    }
}

/// Only exporters of this colour may answer, and all of them must be ready.
async fn check_ready(
    job: &ServiceJob<'_>,
    colour: Colour,
    addresses: &[FleetAddress],
) -> Result<String, StepError> {
    // A forwarded port leads to the same pod for ever, so each attempt forwards it anew.
    let (exporters, _ports) = job.exporters(colour.name(), addresses).await?;
    let readiness = exporters.readiness().await?;
    let others: Vec<_> =
        readiness.deployments.iter().filter(|other| *other != colour.name()).cloned().collect();
    if !others.is_empty() {
        return refuse(format!("{} answers instead of {colour}", words::list(&others)));
    }
    if readiness.deployments.is_empty() {
        return refuse("what answers does not say which deployment it is");
    }
    if !readiness.why_not.is_empty() {
        return refuse(format!("{colour} is not ready: {}", readiness.why_not.join("; ")));
    }
    Ok(format!("{colour} is ready, {} behind the stream", words::duration(readiness.lag)))
}

/// The new colour must agree with the old one.
pub(super) async fn compare_colours(job: &ServiceJob<'_>, soak: bool) -> Result<String, StepError> {
    let Some(old) = job.found.old else {
        return Ok("a first installation: there is nothing to compare with".to_owned());
    };
    let new = job.found.new_colour();
    let addresses = |colour| job.cluster.region.addresses(job.service, colour);
    let (blue, _blue) = job.exporters(old.name(), &addresses(old)).await?;
    let (green, _green) = job.exporters(new.name(), &addresses(new)).await?;
    let terms = job.run.fleet.gates.terms(soak);
    let comparison = job.cluster.limit.within(compare(&blue, &green, &terms)).await?;
    let table = table::comparison(&comparison, old.name(), new.name());
    tracing::info!("comparison of {new} with {old}:\n{table}");
    if !comparison.go {
        return refuse(format!("{new} does not agree with {old}: {}", comparison.reasons.join("; ")));
    }
    let rows = comparison.judgement.map_or(0, |judgement| judgement.rows.len());
    let window = words::duration(terms.window);
    Ok(format!("{new} agrees with {old} in {rows} measures over {window}"))
}
