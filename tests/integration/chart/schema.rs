//! A key that the chart does not know is an error that names it, and the schema knows what the
//! exporter knows.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{CHART, INGEST, read, template, values_of};

/// Settings of `serve` that the chart sets itself, from values of other names.
const OWN: [&str; 8] =
    ["region", "deployment", "shard", "listen", "web-config", "config", "check-config", "nats-"];

/// The same of `ingest`.
const OF_INGEST: [&str; 11] = [
    "region",
    "listen",
    "web-config",
    "config",
    "check-config",
    "nats-",
    "server-id",
    "drain",
    "token-secret",
    "token-key",
    "without-tokens",
];

#[track_caller]
fn refused(args: &[&str]) -> String {
    let output = template(args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{args:?} was taken");
    errors
}

#[test]
fn typos_and_values_out_of_range_are_refused_by_name() {
    for (set, named) in [
        ("actve=green", "'actve' not allowed"),
        ("active=red", "at '/active': value must be one of 'blue', 'green'"),
        ("colours.purple.enabled=true", "at '/colours': additional properties 'purple' not allowed"),
        ("colors.green.enabled=true", "additional properties 'colors' not allowed"),
        ("colours.green.enable=true", "at '/colours/green': additional properties 'enable' not allowed"),
        ("colours.green.image.tagg=1", "at '/colours/green/image': additional properties 'tagg' not allowed"),
        ("image.digest=sha256:12", "at '/image/digest'"),
        ("image.pullPolicy=Sometimes", "at '/image/pullPolicy'"),
        ("regions=us", "at '/regions': got string, want array"),
        ("regions={US}", "at '/regions/0'"),
        ("shards=0", "at '/shards': minimum"),
        ("shards=65", "at '/shards': maximum"),
        ("settings.idle-timout=45s", "at '/settings': additional properties 'idle-timout' not allowed"),
        ("settings.idle-timeout=45", "at '/settings/idle-timeout': got number, want string"),
        ("settings.detail=pairs", "at '/settings/detail'"),
        ("settings.nats-url=nats://a", "at '/settings': additional properties 'nats-url' not allowed"),
        ("settings.degraded-concealment=5", "at '/settings/degraded-concealment': maximum"),
        ("nats.url=nats://a", "at '/nats': additional properties 'url' not allowed"),
        ("ingest.enable=true", "at '/ingest': additional properties 'enable' not allowed"),
        (
            "ingest.settings.rate-adress=5",
            "at '/ingest/settings': additional properties 'rate-adress' not allowed",
        ),
        ("ingest.settings.token-preset=zoom", "at '/ingest/settings/token-preset'"),
        (
            "ingest.settings.without-tokens=true",
            "at '/ingest/settings': additional properties 'without-tokens'",
        ),
        ("ingest.tokenKeys[0].secret=a", "at '/ingest/tokenKeys/0': missing property 'key'"),
        ("ingest.replicas=0", "at '/ingest/replicas': minimum"),
        ("nats.urls={http://a}", "at '/nats/urls/0'"),
        ("settings.region-nats-url={apac=nats://me:secret@a}", "at '/settings/region-nats-url/0'"),
        ("nats.fallbackUrl={nats://a}", "at '/nats': additional properties 'fallbackUrl' not allowed"),
        ("nats.creds.name=x", "at '/nats/creds': additional properties 'name' not allowed"),
        ("nats.tls.ca.file=x", "at '/nats/tls/ca': additional properties 'file' not allowed"),
        ("streams.aply=true", "at '/streams': additional properties 'aply' not allowed"),
        ("webConfig.scheme=https", "at '/webConfig/scheme'"),
        ("service.prt=80", "at '/service': additional properties 'prt' not allowed"),
        ("networkPolicy.from[0].podSelektor=x", "'podSelektor' not allowed"),
        ("monitoring.monitor.kind=Probe", "at '/monitoring/monitor/kind'"),
        ("monitoring.rule.enabled=true", "at '/monitoring': additional properties 'rule' not allowed"),
        ("resources.request.cpu=1", "at '/resources': additional properties 'request' not allowed"),
        ("resources.limits.memory=64MB", "at '/resources/limits/memory'"),
        ("tolerations[0].efect=NoSchedule", "'efect' not allowed"),
        ("podLabels.team=1", "at '/podLabels/team': got number, want string"),
    ] {
        let errors = refused(&["--set", set]);
        assert!(errors.contains(named), "{set}: {errors}");
    }
}

#[test]
fn what_does_not_go_together_is_refused_with_what_to_do() {
    for (set, said) in [
        (
            "active=green",
            "active is green, but colours.green.enabled is false: the service would lead nowhere",
        ),
        (
            "nats.creds.secret=a,nats.nkey.secret=b",
            "nats.nkey cannot be used with nats.creds: connect as one user",
        ),
        (
            "streams.nkey.secret=a,streams.user=b,streams.password.secret=c",
            "streams.user cannot be used with streams.nkey: connect as one user",
        ),
        (
            "ingest.enabled=true",
            "name secrets in ingest.tokenSecrets (HS256) or ingest.tokenKeys (public keys in PEM, or a JWKS), or \
             accept frames of anybody with ingest.withoutTokens=true",
        ),
        (
            format!("{INGEST},ingest.withoutTokens=true").as_str(),
            "ingest.withoutTokens cannot be used with ingest.tokenSecrets or ingest.tokenKeys",
        ),
        (
            format!("{INGEST},regions={{us,apac}}").as_str(),
            "ingest publishes to one region: set ingest.region to one of us, apac",
        ),
        (format!("{INGEST},ingest.region=eu").as_str(), "ingest.region is eu, which is not in regions: us"),
        (
            format!("{INGEST},ingest.ingress.enabled=true").as_str(),
            "ingest.ingress needs ingest.ingress.hosts",
        ),
        (
            format!("{INGEST},ingest.nats.creds.secret=a").as_str(),
            "ingest.nats.user cannot be used with ingest.nats.creds: connect as one user",
        ),
        ("nats.user=a", "nats.user needs nats.password.secret too"),
        ("streams.password.secret=a", "streams.password.secret needs streams.user too"),
        (
            "nats.urls={nats://me:secret@a:4222}",
            "nats.urls and nats.fallbackUrls must not hold users or passwords",
        ),
    ] {
        let errors = refused(&["--set", set]);
        assert!(errors.contains(said), "{set}: {errors}");
        assert!(!errors.contains("me:secret"), "{errors}");
    }
}

/// Every object says which keys it has; the exceptions are maps of text to text, and what only
/// Kubernetes can judge.
#[test]
fn no_object_of_the_schema_takes_keys_that_it_does_not_name() {
    fn walk(value: &Value, path: &str, open: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                let names = map.get("additionalProperties");
                if map.get("type") == Some(&"object".into()) && names != Some(&false.into()) {
                    open.push(path.to_owned());
                }
                for (key, value) in map {
                    walk(value, &format!("{path}/{key}"), open);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, path, open)),
            _ => {}
        }
    }
    let mut open = Vec::new();
    walk(&schema(), "", &mut open);
    let affinity = "/properties/affinity/properties";
    assert_eq!(
        open,
        [
            "/definitions/strings".to_owned(),
            format!("{affinity}/nodeAffinity"),
            format!("{affinity}/podAffinity"),
            format!("{affinity}/podAntiAffinity"),
            "/properties/global".to_owned(),
        ]
    );
}

#[test]
fn the_settings_are_those_of_the_commands() {
    let (declared, schema) = (read("docs/configuration.md"), schema());
    for (command, definition, own) in
        [("serve", "settings", &OWN[..]), ("ingest", "ingestSettings", &OF_INGEST)]
    {
        let (_, section) = declared.split_once(&format!("## `callsight {command}`")).unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let own =
            |flag: &&str| own.iter().any(|own| flag == own || own.ends_with('-') && flag.starts_with(own));
        let flags: BTreeSet<_> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `--")?.split('`').next())
            .filter(|flag| !own(flag))
            .collect();
        let settings = schema["definitions"][definition]["properties"].as_object().unwrap();
        let settings: BTreeSet<_> = settings.keys().map(String::as_str).collect();
        assert_eq!(settings, flags, "{definition} of values.schema.json against docs/configuration.md");
    }
}

#[test]
fn the_chart_and_what_it_runs_have_the_version_of_the_crate() {
    let chart: Value = yaml_serde::from_str(&read(&format!("{CHART}/Chart.yaml"))).unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

/// A key that only a values file of a region has would never be seen in `values.yaml`, which is
/// what people read.
#[test]
fn every_key_of_a_region_is_explained_in_the_values_of_the_chart() {
    let all: Value = yaml_serde::from_str(&read(&format!("{CHART}/values.yaml"))).unwrap();
    for region in super::REGIONS {
        let values: Value = yaml_serde::from_str(&read(&values_of(region))).unwrap();
        for key in values.as_object().unwrap().keys() {
            assert!(all.get(key).is_some(), "{key} of {region}");
        }
    }
}

fn schema() -> Value {
    serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).unwrap()
}
