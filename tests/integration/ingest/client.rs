//! A client that writes its requests by hand, and the tokens that it shows.

use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::http::Response;
use crate::kit::jwt::hs256;

/// A secret that the tests share with the way in.
pub(crate) const SECRET: &str = "a secret of thirty-two bytes or more";

/// A request over a connection of its own.
pub(crate) async fn send(
    target: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response, String> {
    raw(target, &request(target, method, path, headers, body)).await
}

/// The bytes of a request after which the connection is closed.
pub(crate) fn request(
    target: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding")) {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// Writes bytes over a connection of its own and reads one answer.
pub(crate) async fn raw(target: &str, request: &[u8]) -> Result<Response, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(target).await?;
        // A server that has heard enough closes its end.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        if answer.is_empty() { read.map(|_| answer) } else { Ok(answer) }
    };
    let answer = exchange.await.map_err(|error: std::io::Error| error.to_string())?;
    parse(&answer).ok_or_else(|| format!("no answer: {:?}", String::from_utf8_lossy(&answer)))
}

fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Some(Response { status, headers: headers.collect(), body: answer[end + 4..].to_vec() })
}

/// The word, the reason and the advice of an error.
pub(super) fn told(answer: &Response) -> (String, Option<String>, String) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    let text = |key: &str| body[key].as_str().map(str::to_owned);
    (text("error").unwrap(), text("reason"), text("detail").unwrap())
}

pub(super) fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// Claims for a participant of the meeting of the kit's frames.
pub(super) fn claims(peer_id: &str, more: &Value) -> Value {
    let mut claims = json!({"meeting_id": "standup", "peer_id": peer_id, "exp": now() + 600});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

/// A good token for a participant.
pub(crate) fn token(peer_id: &str) -> String {
    hs256(SECRET.as_bytes(), &claims(peer_id, &json!({})))
}

/// The headers of a frame in MessagePack.
pub(super) fn message_headers(token: &str) -> [(&'static str, String); 2] {
    [("Content-Type", "application/msgpack".to_owned()), ("Authorization", format!("Bearer {token}"))]
}
