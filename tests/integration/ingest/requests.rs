//! Requests of every kind: what gets in, what is refused, and how that is said.

use std::io::Write;

use callsight_frame::{Form, Frame, MAX_FRAME_BYTES};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use super::client::{message_headers, request, send, token, told};
use super::{Way, frame_of};
use crate::kit::callsight::{Callsight, REGION};
use crate::kit::certificates::Authority;
use crate::kit::frames::SERVER_URL;
use crate::kit::nats::Nats;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_frame_of_any_form_reaches_the_exporters_series() {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    let mut way = Way::start(&nats.url(), &[]);
    way.ready().await;
    let bearer = format!("Bearer {}", token("ana"));
    let (message, json) = ("application/msgpack", "application/json");
    let sent: Vec<(u64, &str, &str, Vec<u8>)> = vec![
        (1, message, "identity", frame_of("ana:1", 1, &["bo"]).encode(Form::Named)),
        (2, "application/x-msgpack", "", frame_of("ana:1", 2, &["bo"]).encode(Form::Compact)),
        (3, json, "", serde_json::to_vec(&frame_of("ana:1", 3, &["bo"])).unwrap()),
        (4, json, "gzip", packed(&serde_json::to_vec_pretty(&frame_of("ana:1", 4, &["bo"])).unwrap())),
        (5, "application/vnd.msgpack", "gzip", packed(&frame_of("ana:1", 5, &["bo"]).encode(Form::Named))),
    ];
    for (seq, media, encoding, body) in &sent {
        let mut headers = vec![("content-type", *media), ("authorization", &*bearer)];
        if !encoding.is_empty() {
            headers.push(("content-encoding", encoding));
        }
        let answer = send(&way.target(), "POST", "/v1/frames", &headers, body).await.unwrap();
        assert_eq!((answer.status, answer.text()), (204, ""), "frame {seq}");
    }
    // Again, as after a lost answer: the stream has it.
    let (_, media, _, body) = &sent[1];
    let headers = [("content-type", *media), ("authorization", &*bearer)];
    assert_eq!(send(&way.target(), "POST", "/v1/frames", &headers, body).await.unwrap().status, 204);

    let stored = Health::at(&nats).await.read().await;
    assert_eq!(stored.len(), sent.len());
    for (message, (seq, ..)) in stored.iter().zip(&sent) {
        assert_eq!(message.subject.as_str(), "health.diagnostics.us.ingest.edge-1.m22");
        let id = message.headers.as_ref().unwrap().get("Nats-Msg-Id").unwrap().as_str();
        assert_eq!(id, format!("ana:1:{seq}"));
        assert_eq!(message.payload, frame_of("ana:1", *seq, &["bo"]).encode(Form::Compact));
    }
    let session = [("session_id", "ana:1"), ("peer_id", "ana"), ("server_url", SERVER_URL)];
    callsight
        .metrics_when(PATIENCE, "the last frame to be folded", |scrape| {
            let rtt = scrape.value("videocall_session_rtt_seconds", &session);
            wait::when(rtt, |rtt| *rtt == Some(0.045)).map(drop)
        })
        .await;
    let scrape = way.metrics().await;
    let frames = |outcome: &str| scrape.sum("callsight_ingest_frames_total", &[("outcome", outcome)]);
    assert_eq!((frames("stored"), frames("duplicate")), (5.0, 1.0));
    assert_eq!(scrape.sum("callsight_ingest_frames_total", &[]), 6.0);
    assert_eq!(scrape.value("callsight_ingest_ack_seconds_count", &[]), Some(6.0));
    for (name, value) in [
        ("keys", 1.0),
        ("keys_refused", 0.0),
        ("ready", 1.0),
        ("requests_in_flight", 0.0),
        ("buffer_ratio", 0.0),
    ] {
        assert_eq!(scrape.value(&format!("callsight_ingest_{name}"), &[]), Some(value), "{name}");
    }
    assert!(
        scrape.any("process_resident_memory_bytes", &[])
            && scrape.any("callsight_ingest_build_info", &[("region", REGION)])
    );
    assert!(way.terminate().success());
}

#[tokio::test]
async fn what_is_refused_has_a_status_a_word_and_advice() {
    let nats = Nats::start();
    let _health = Health::create(&nats).await;
    let mut way = Way::start(&nats.url(), &["--rate-participant=1000"]);
    way.ready().await;
    let good = format!("Bearer {}", token("ana"));
    let frame = frame_of("ana:1", 1, &["bo"]);
    let json = serde_json::to_string(&frame).unwrap();
    let long = vec![b' '; MAX_FRAME_BYTES + 1];
    let bomb = packed(&vec![b' '; 10 << 20]);
    let (message, text, gzip) = (
        ("Content-Type", "application/msgpack"),
        ("Content-Type", "application/json"),
        ("Content-Encoding", "gzip"),
    );
    let auth = ("Authorization", good.as_str());
    let chunked = ("Transfer-Encoding", "chunked");
    let endless =
        [b"ffff\r\n".to_vec(), vec![b' '; 0xffff], b"\r\nffff\r\n".to_vec(), vec![b' '; 0xffff]].concat();
    let changed = |from: &str, to: &str| json.replacen(from, to, 1).into_bytes();
    let whole = json.clone().into_bytes();
    type Case<'a> = (u16, &'a str, Option<&'a str>, &'a str, &'a str, Vec<(&'a str, &'a str)>, Vec<u8>);
    let cases: Vec<Case<'_>> = vec![
        (400, "rejected", Some("malformed"), "POST", "/v1/frames", vec![text, auth], b"{".to_vec()),
        (400, "rejected", Some("malformed"), "POST", "/v1/frames", vec![message, auth], b"\xc1".to_vec()),
        (400, "rejected", Some("malformed"), "POST", "/v1/frames", vec![message, auth], vec![]),
        (400, "rejected", Some("missing_field"), "POST", "/v1/frames", vec![text, auth], b"{}".to_vec()),
        (
            400,
            "rejected",
            Some("unsupported_version"),
            "POST",
            "/v1/frames",
            vec![text, auth],
            changed("\"v\":1", "\"v\":2"),
        ),
        (
            400,
            "rejected",
            Some("out_of_range"),
            "POST",
            "/v1/frames",
            vec![text, auth],
            changed("\"seq\":1", "\"seq\":0"),
        ),
        (
            400,
            "rejected",
            Some("out_of_range"),
            "POST",
            "/v1/frames",
            vec![text, auth],
            changed("41.0", "1e300"),
        ),
        (
            400,
            "rejected",
            Some("bad_identifier"),
            "POST",
            "/v1/frames",
            vec![text, auth],
            changed("standup", "a b"),
        ),
        (400, "rejected", Some("bad_url"), "POST", "/v1/frames", vec![text, auth], changed("https:", "")),
        (400, "rejected", Some("bad_encoding"), "POST", "/v1/frames", vec![text, gzip, auth], whole.clone()),
        (401, "unauthorized", Some("missing"), "POST", "/v1/frames", vec![text], whole.clone()),
        (
            401,
            "unauthorized",
            Some("missing"),
            "POST",
            "/v1/frames",
            vec![text, ("Authorization", "Basic YTpi")],
            whole.clone(),
        ),
        (
            401,
            "unauthorized",
            Some("token_malformed"),
            "POST",
            "/v1/frames",
            vec![text, ("Authorization", "Bearer x")],
            whole.clone(),
        ),
        (
            403,
            "forbidden",
            Some("other_meeting"),
            "POST",
            "/v1/frames",
            vec![text, auth],
            changed("standup", "retro"),
        ),
        (
            403,
            "forbidden",
            Some("other_participant"),
            "POST",
            "/v1/frames",
            vec![text, auth],
            changed("\"ana\"", "\"bo\""),
        ),
        (
            403,
            "forbidden",
            Some("other_session"),
            "POST",
            "/v1/frames",
            vec![text, auth],
            changed("ana:1", "bo:1"),
        ),
        (404, "not_found", None, "POST", "/v1/frame", vec![text, auth], whole.clone()),
        (404, "not_found", None, "GET", "/", vec![], vec![]),
        (405, "method_not_allowed", None, "GET", "/v1/frames", vec![], vec![]),
        (405, "method_not_allowed", None, "PUT", "/v1/frames", vec![text, auth], whole.clone()),
        (405, "method_not_allowed", None, "POST", "/metrics", vec![], vec![]),
        (413, "too_large", Some("too_large"), "POST", "/v1/frames", vec![text, auth], long),
        (413, "too_large", Some("too_large"), "POST", "/v1/frames", vec![text, auth, chunked], endless),
        (413, "too_large", Some("too_large"), "POST", "/v1/frames", vec![text, gzip, auth], bomb),
        (415, "unsupported", Some("unsupported_type"), "POST", "/v1/frames", vec![auth], whole.clone()),
        (
            415,
            "unsupported",
            Some("unsupported_type"),
            "POST",
            "/v1/frames",
            vec![("Content-Type", "text/plain"), auth],
            whole.clone(),
        ),
        (
            415,
            "unsupported",
            Some("unsupported_encoding"),
            "POST",
            "/v1/frames",
            vec![text, ("Content-Encoding", "br"), auth],
            whole,
        ),
    ];
    for (status, word, reason, method, path, headers, body) in &cases {
        let what = format!("{method} {path} {reason:?}");
        let answer = send(&way.target(), method, path, headers, body).await.expect(&what);
        assert_eq!(answer.status, *status, "{what}: {}", String::from_utf8_lossy(&answer.body));
        let (told_word, told_reason, advice) = told(&answer);
        assert_eq!((told_word.as_str(), told_reason.as_deref()), (*word, *reason), "{what}");
        assert!(!advice.is_empty() && !advice.ends_with('.'), "{what}: {advice}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
        assert_eq!(answer.header("www-authenticate").is_some(), *status == 401, "{what}");
        assert_eq!(answer.header("allow").is_some(), *status == 405, "{what}");
    }
    assert_eq!(Health::at(&nats).await.messages().await, 0);

    // Each request with a frame is counted once, under the reason that it was told.
    let scrape = way.metrics().await;
    for reason in cases.iter().filter_map(|(_, _, reason, ..)| *reason) {
        let expected = cases.iter().filter(|(_, _, other, ..)| *other == Some(reason)).count() as f64;
        let counted = scrape.sum("callsight_ingest_frames_total", &[("reason", reason)]);
        assert_eq!(counted, expected, "{reason}");
    }
    assert_eq!(scrape.sum("callsight_ingest_tokens_refused_total", &[]), 6.0);
    assert_eq!(scrape.sum("callsight_ingest_frames_total", &[("outcome", "stored")]), 0.0);
}

#[tokio::test]
async fn pages_of_named_origins_may_send_frames() {
    let nats = Nats::start();
    let _health = Health::create(&nats).await;
    let app = "https://app.example:8443";
    let mut way = Way::start(&nats.url(), &["--allow-origin", "https://a.example", "--allow-origin", app]);
    way.ready().await;
    let ask = async |origin: &'static str| {
        let headers = [("Origin", origin), ("Access-Control-Request-Method", "POST")];
        send(&way.target(), "OPTIONS", "/v1/frames", &headers, b"").await.unwrap()
    };
    let allowed = ask(app).await;
    assert_eq!(allowed.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", app),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "authorization, content-type, content-encoding"),
        ("access-control-max-age", "7200"),
        ("vary", "Origin"),
    ] {
        assert_eq!(allowed.header(name), Some(value), "{name}");
    }
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
    for origin in
        ["https://evil.example", "https://app.example", "null", "https://app.example:8443.evil.example"]
    {
        let refused = ask(origin).await;
        assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, None), "{origin}");
        assert_eq!(told(&refused).1.as_deref(), Some("origin"));
    }
    // The answer of the request itself, good or bad, can be read by the same pages.
    for (token, status) in [(token("ana"), 204), ("x".to_owned(), 401)] {
        let frame = frame_of("ana:1", 1, &[]);
        let answer = way.post_with(&token, &frame, &[("Origin", app)]).await.unwrap();
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, Some(app)));
        assert_eq!(answer.header("access-control-expose-headers"), Some("retry-after"));
        let answer = way.post_with(&token, &frame, &[("Origin", "https://evil.example")]).await.unwrap();
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, None));
        assert_eq!(answer.header("vary"), Some("Origin"));
    }
    let mut any = Way::start(&nats.url(), &["--allow-origin", "*"]);
    any.ready().await;
    let headers = [("Origin", "https://anybody.example")];
    let answer = send(&any.target(), "OPTIONS", "/v1/frames", &headers, b"").await.unwrap();
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some("*")));
}

#[tokio::test]
async fn metrics_need_a_password_and_frames_a_token() {
    let nats = Nats::start();
    let _health = Health::create(&nats).await;
    let authority = Authority::new();
    let hash = bcrypt::hash("hunter2", 4).unwrap();
    let web = authority.file("web.yml", &format!("basic_auth_users: {{prometheus: '{hash}'}}\n"));
    let mut way = Way::start(&nats.url(), &["--web-config", &web]);
    way.ready().await;
    assert_eq!(way.get("/metrics").await.status, 401);
    assert_eq!(way.get("/livez").await.status, 200);
    let basic = ("authorization", "Basic cHJvbWV0aGV1czpodW50ZXIy");
    assert_eq!(crate::kit::http::get(&way.url("/metrics"), &[basic]).await.unwrap().status, 200);
    assert_eq!(way.post(&token("ana"), &frame_of("ana:1", 1, &[])).await.status, 204);
    assert_eq!(way.post("x", &frame_of("ana:1", 1, &[])).await.status, 401);
}

#[tokio::test]
async fn frames_come_over_tls_and_no_other_way_once_it_is_set() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let authority = Authority::new();
    authority.sign_to("server");
    let web = authority.file("web.yml", "tls_server_config: {cert_file: server.pem, key_file: server.key}\n");
    let way = Way::start(&nats.url(), &["--web-config", &web]);
    let target = way.target();
    let headers = message_headers(&token("ana"));
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let body = frame_of("ana:1", 1, &[]).encode(Form::Compact);
    let request = request(&target, "POST", "/v1/frames", &headers, &body);
    wait::eventually_async(PATIENCE, "a frame to be stored", async || {
        let answer = authority.exchange(&target, &request, None).await?;
        wait::when(answer, |answer| answer.starts_with("HTTP/1.1 204 ")).map(drop)
    })
    .await;
    assert_eq!(health.messages().await, 1);
    let plain = way.post_with(&token("ana"), &frame_of("ana:1", 2, &[]), &[]).await;
    assert!(plain.is_err(), "{plain:?}");
    let distrusted = Authority::new().exchange(&target, &request, None).await.unwrap_err();
    assert!(distrusted.contains("invalid peer certificate"), "{distrusted}");
    assert_eq!(health.messages().await, 1);
}

/// The page itself is read by Prometheus's own tool in both formats elsewhere; here, what is on it.
#[tokio::test]
async fn every_metric_of_the_catalogue_is_there_from_the_start() {
    use callsight_fold::series::catalogue::{CATALOGUE, Kind, Plane};

    let nats = Nats::start();
    let mut way = Way::start(&nats.url(), &[]);
    way.readiness(503).await;
    let scrape = way.metrics().await;
    for metric in CATALOGUE.iter().filter(|metric| metric.plane == Plane::Ingest) {
        let name = match metric.kind {
            Kind::Histogram(_) => format!("{}_count", metric.name),
            _ => metric.name.to_owned(),
        };
        assert!(scrape.any(&name, &[]), "{name}");
    }
    let page =
        crate::kit::http::get(&way.url("/metrics"), &[("accept", "application/openmetrics-text")]).await;
    let page = page.unwrap();
    assert!(page.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(page.text().ends_with("# EOF\n"));
    let checked = crate::kit::prometheus::promtool(&["check", "metrics"], way.get("/metrics").await.text());
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// The JSON of `frame decode` and that of a request are the same.
#[tokio::test]
async fn the_json_of_frame_decode_is_taken() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut way = Way::start(&nats.url(), &[]);
    way.ready().await;
    let sent: Frame<'_> = crate::kit::frames::full_frame("ana:1", 1, &["bo"]);
    let sent = Frame { peer_id: callsight_frame::PeerId::new("ana").unwrap(), ..sent };
    let hex: String = sent.encode(Form::Named).iter().map(|byte| format!("{byte:02x}")).collect();
    let decoded = Callsight::run_with_input(&["frame", "decode", "--hex"], &hex);
    assert!(decoded.status.success());
    let bearer = format!("Bearer {}", token("ana"));
    let headers = [("content-type", "application/json"), ("authorization", &*bearer)];
    let answer = send(&way.target(), "POST", "/v1/frames", &headers, &decoded.stdout).await.unwrap();
    assert_eq!(answer.status, 204, "{:?}", serde_json::from_slice::<Value>(&answer.body));
    assert_eq!(health.read().await[0].payload, sent.encode(Form::Compact));
}
