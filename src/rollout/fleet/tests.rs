use std::fs;

use super::*;

/// What is wrong with a fleet of one service and one region with these keys.
fn refused(service: &str, region: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fleet.yaml");
    let text = format!(
        "services: [{{name: callsight, kind: exporter, chart: c, release: callsight, namespace: n}}{service}]\n\
         regions: [{{name: us, context: us{region}}}]\n"
    );
    fs::write(&path, text).unwrap();
    Fleet::read(&path).map(drop).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn a_mistake_is_told() {
    assert_eq!(refused("", ""), "");
    for (service, region, problem) in [
        ("", ", contxt: us", "contxt"),
        ("", ", values: {natz: []}", "region us has values for natz, which is not a service"),
        ("", ", gateways: [apac]", "names gateways, but no monitors"),
        ("", ", monitors: ['nats:8222']", "`nats:8222`: write http://host:port, or svc/NAME:PORT"),
        ("", ", certificates: [nats-tls]", "write secret/NAMESPACE/NAME"),
        ("", ", nats: {url: ['http://user:hunter2@a']}", "write nats://host:port"),
        (", {name: nats, kind: plain, chart: c, release: nats, namespace: n}", "", "needs a workload"),
        (
            ", {name: callsight, kind: exporter, chart: c, release: b, namespace: n}",
            "",
            "callsight occurs twice",
        ),
    ] {
        let told = refused(service, region);
        assert!(told.contains(problem) && !told.contains("hunter2"), "{problem}: {told}");
    }
    let missing = Fleet::read(Path::new("/nowhere.yaml")).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read `/nowhere.yaml`, the file of --fleet");
}

#[test]
fn addresses_follow_from_the_release_unless_given() {
    let text = "
        services: [{name: c, kind: exporter, chart: c, release: callsight, namespace: n}]
        regions:
          - {name: us, context: us}
          - {name: apac, context: apac, exporters: {green: [\"http://g1:1\", \"pod/callsight-green-2:9464\"]}}";
    let fleet: Fleet = yaml_serde::from_str(text).unwrap();
    let (us, apac, service) = (&fleet.regions[0], &fleet.regions[1], &fleet.services[0]);
    let shown = |addresses: Vec<FleetAddress>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(us.addresses(service, Colour::Green)), ["svc/callsight-green:9464"]);
    assert_eq!(us.active_address(service).to_string(), "svc/callsight:9464");
    assert_eq!(shown(apac.addresses(service, Colour::Green)), ["http://g1:1", "pod/callsight-green-2:9464"]);
}

#[test]
fn certificates_are_files_secrets_or_servers() {
    for (text, shown) in [
        ("file:/etc/tls.crt", "/etc/tls.crt"),
        ("secret/nats/nats-tls", "secret nats/nats-tls tls.crt"),
        ("secret/nats/nats-ca/ca.crt", "secret nats/nats-ca ca.crt"),
        ("nats://nats.example:4222", "nats.example:4222"),
        ("tls://[::1]:443", "::1:443"),
    ] {
        assert_eq!(text.parse::<CertificatePlace>().unwrap().to_string(), shown);
    }
    for text in ["", "secret/a", "http://a:1", "tls://a", "file"] {
        assert!(text.parse::<CertificatePlace>().is_err(), "{text}");
    }
}
