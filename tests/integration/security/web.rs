//! `--web-config`: metrics over TLS, for those with a password or a certificate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::kit::callsight::Callsight;
use crate::kit::certificates::{Authority, Signed};
use crate::kit::nats::Nats;
use crate::kit::prometheus::Prometheus;
use crate::kit::{http, wait};

const TLS: &str = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n";

/// A user's line in the file. The cost is the lowest: these tests are not about time.
fn user(name: &str, password: &str) -> String {
    format!("basic_auth_users: {{{name}: '{}'}}\n", bcrypt::hash(password, 4).unwrap())
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

fn serve(nats: &Nats, web: &str) -> Callsight {
    Callsight::serve(nats, &["--create", "--log-level", "trace", "--web-config", web])
}

/// GET over TLS: the whole answer, or why there is none.
async fn get(
    callsight: &Callsight,
    path: &str,
    authority: &Authority,
    own: Option<&Signed>,
    credentials: Option<&str>,
) -> Result<String, String> {
    let authorization =
        credentials.map(|text| format!("Authorization: {}\r\n", basic(text))).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n{authorization}\r\n");
    authority.exchange(&callsight.target(), request.as_bytes(), own).await
}

/// Waits until an answer over TLS has a status.
async fn answers(
    callsight: &Callsight,
    authority: &Authority,
    credentials: Option<&str>,
    path: &str,
    status: &str,
) {
    wait::eventually_async(wait::PATIENCE, &format!("{path} to answer {status}"), async || {
        let answer = get(callsight, path, authority, None, credentials).await;
        wait::when(answer, |answer| answer.as_ref().is_ok_and(|answer| answer.contains(status))).map(drop)
    })
    .await;
}

#[tokio::test]
async fn only_a_password_opens_metrics_and_probes_need_none() {
    let (nats, authority) = (Nats::start(), Authority::new());
    let web = authority.file("web.yml", &user("prometheus", "hunter2"));
    let mut callsight = serve(&nats, &web);
    callsight.ready().await;
    let status = async |path: &str, credentials: &str| {
        let headers = [("authorization", basic(credentials))];
        let headers = headers.each_ref().map(|(name, value)| (*name, &**value));
        callsight.get_with(path, &headers).await.status
    };
    assert_eq!(status("/metrics", "prometheus:hunter2").await, 200);
    assert_eq!(status("/", "prometheus:hunter2").await, 200);
    for credentials in ["prometheus:hunter3", "eve:hunter2", "prometheus", ""] {
        assert_eq!(status("/metrics", credentials).await, 401, "{credentials}");
    }
    for path in ["/metrics", "/", "/nothing", "/metrics/", "//metrics", "/livez/", "/livez/../metrics"] {
        let refused = callsight.get(path).await;
        assert_eq!(refused.status, 401, "{path}");
        assert!(refused.header("www-authenticate").unwrap().starts_with("Basic "));
    }
    for path in ["/livez", "/readyz", "/livez?verbose"] {
        assert_eq!(callsight.get(path).await.status, 200, "{path}");
    }
    let log = callsight.process().output();
    assert!(log.contains("basic auth without TLS sends passwords in clear text"), "{log}");
    for secret in ["hunter2", &basic("prometheus:hunter2"), "$2b$"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test]
async fn a_prometheus_scrapes_over_tls_with_a_password() {
    let (nats, authority) = (Nats::start(), Authority::new());
    authority.sign_to("server");
    let web = authority.file("web.yml", &format!("{TLS}{}", user("prometheus", "hunter2")));
    let callsight = serve(&nats, &web);
    answers(&callsight, &authority, None, "/readyz", "200 OK").await;
    let prometheus = Prometheus::start_with(&format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: callsight\n  scheme: https\n  \
         tls_config: {{ca_file: '{}'}}\n  basic_auth: {{username: prometheus, password: hunter2}}\n  \
         static_configs: [{{targets: ['{}']}}]\n",
        authority.ca(),
        callsight.target()
    ));
    wait::eventually_async(wait::PATIENCE, "a scrape", async || {
        wait::when(prometheus.value("up").await, |up| *up == Some(1.0))
    })
    .await;
    assert!(http::get(&format!("{}/metrics", callsight.url()), &[]).await.is_err());
}

#[tokio::test]
async fn only_a_certificate_of_the_right_authority_gets_in() {
    let (nats, authority, other) = (Nats::start(), Authority::new(), Authority::new());
    authority.sign_to("server");
    let web = authority.file(
        "web.yml",
        "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  client_ca_file: ca.pem\n  \
         client_auth_type: RequireAndVerifyClientCert\n  min_version: TLS13\n",
    );
    let callsight = serve(&nats, &web);
    let own = authority.sign();
    wait::eventually_async(wait::PATIENCE, "an answer", async || {
        let answer = get(&callsight, "/metrics", &authority, Some(&own), None).await;
        wait::when(answer, |answer| answer.as_ref().is_ok_and(|answer| answer.contains("200 OK"))).map(drop)
    })
    .await;
    get(&callsight, "/metrics", &authority, None, None).await.unwrap_err();
    get(&callsight, "/livez", &authority, None, None).await.unwrap_err();
    get(&callsight, "/metrics", &authority, Some(&other.sign()), None).await.unwrap_err();
}

#[tokio::test]
async fn what_changes_is_taken_up_and_what_breaks_is_not() {
    let (nats, authority, next) = (Nats::start(), Authority::new(), Authority::new());
    authority.sign_to("server");
    let web = authority.file("web.yml", &format!("{TLS}{}", user("prometheus", "old")));
    let callsight = serve(&nats, &web);
    answers(&callsight, &authority, Some("prometheus:old"), "/metrics", "200 OK").await;

    authority.file("web.yml", &format!("{TLS}{}", user("prometheus", "new")));
    answers(&callsight, &authority, Some("prometheus:new"), "/metrics", "200 OK").await;
    answers(&callsight, &authority, Some("prometheus:old"), "/metrics", "401 Unauthorized").await;

    // Broken in every way there is, it stays closed to strangers and open to who was welcome.
    for (content, complaint) in [
        ("basic_auth_usres: {}\n".to_owned(), "unknown field `basic_auth_usres`, expected"),
        (format!("{TLS}basic_auth_users: {{prometheus: s3cr3t}}\n"), "must be a bcrypt hash"),
        (TLS.replace("server.pem", "gone.pem"), "cannot read"),
    ] {
        authority.file("web.yml", &content);
        wait::eventually(wait::PATIENCE, complaint, || {
            wait::when(callsight.process().output(), |log| log.contains(complaint))
        });
        answers(&callsight, &authority, Some("prometheus:new"), "/metrics", "200 OK").await;
        answers(&callsight, &authority, None, "/metrics", "401 Unauthorized").await;
    }
    assert!(!callsight.process().output().contains("s3cr3t"));

    // A renewed certificate, under the name of the old one.
    authority.file("web.yml", &format!("{TLS}{}", user("prometheus", "new")));
    let Signed { certificate, key } = next.sign();
    authority.file("server.pem", &certificate);
    authority.file("server.key", &key);
    answers(&callsight, &next, Some("prometheus:new"), "/metrics", "200 OK").await;
    get(&callsight, "/metrics", &authority, None, None).await.unwrap_err();
}

/// The attack: `: > web.yml` made the exporter answer plain HTTP to anybody, 4 s later.
#[tokio::test]
async fn an_emptied_file_removes_neither_tls_nor_passwords() {
    let (nats, authority) = (Nats::start(), Authority::new());
    authority.sign_to("server");
    let users = user("prometheus", "hunter2");
    let whole = format!("{TLS}{users}");
    let web = authority.file("web.yml", &whole);
    let mut callsight = serve(&nats, &web);
    let closed = async || {
        answers(&callsight, &authority, Some("prometheus:hunter2"), "/metrics", "200 OK").await;
        answers(&callsight, &authority, None, "/metrics", "401 Unauthorized").await;
        http::get(&format!("{}/metrics", callsight.url()), &[]).await.unwrap_err();
    };
    closed().await;
    let warning = "the changed file of --web-config is refused";
    for (content, complaint) in [
        ("", "protects nothing: write `tls_server_config` or `basic_auth_users`"),
        (TLS, "would remove all users: restart the process if that is what you want"),
        ("# basic_auth_users: {}\n", "protects nothing"),
        (&users, "would remove TLS: restart the process"),
        // Broken after it was emptied, it still keeps what was there before.
        ("basic_auth_usres: {}\n", "unknown field"),
        ("null\n", "protects nothing"),
    ] {
        authority.file("web.yml", content);
        wait::eventually(wait::PATIENCE, complaint, || {
            let last = callsight.process().output();
            let last = last.lines().rfind(|line| line.contains("web config refused"));
            wait::when(last.unwrap_or_default().to_owned(), |last| {
                last.contains(complaint) && last.contains("WARN")
            })
        });
        answers(&callsight, &authority, None, "/readyz", warning).await;
        closed().await;
    }
    authority.file("web.yml", &whole);
    wait::eventually_async(wait::PATIENCE, "the warning to end", async || {
        let answer = get(&callsight, "/readyz", &authority, None, None).await;
        wait::when(answer, |answer| answer.as_ref().is_ok_and(|answer| !answer.contains(warning))).map(drop)
    })
    .await;

    // What the reload refuses, a restart does.
    authority.file("web.yml", &users);
    callsight.restart();
    callsight.ready().await;
    assert_eq!(callsight.get("/metrics").await.status, 401);
}

#[test]
fn a_broken_file_at_the_start_is_said_in_one_line() {
    let authority = Authority::new();
    for (content, complaint) in [
        ("basic_auth_users: {prometheus: hunter2}\n", "`basic_auth_users.prometheus`"),
        ("", "protects nothing: write `tls_server_config` or `basic_auth_users`, or omit --web-config"),
    ] {
        let web = authority.file("web.yml", content);
        let output =
            Callsight::run(&["serve", "--region", "us", "--listen", "127.0.0.1:0", "--web-config", &web]);
        assert_eq!(output.status.code(), Some(1));
        let line = String::from_utf8(output.stderr).unwrap();
        let line = line.lines().last().unwrap();
        assert!(line.starts_with(&format!("error: `{web}` of --web-config: {complaint}")), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
}
