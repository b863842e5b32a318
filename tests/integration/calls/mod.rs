//! Real calls between real browsers, over a network that hurts them.
//!
//! Pages with the browser client call each other through [`netem`](callsight::netem), and report to
//! `callsight ingest`, nats-server and the exporter. So whatever is asserted of a frame, a verdict,
//! an alert or a report has a cause that the test knows: what it had the network do.

mod mesh;
mod mixed;
mod processor;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use callsight::netem::{Counts, End, Impairment, Netem, Share};
use callsight_frame::Frame;
use futures_util::StreamExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::sync::MutexGuard;
use tokio::task::JoinSet;
use warp::http::StatusCode;
use warp::reply::Reply;
use warp::{Filter, Rejection};

use crate::ingest::Way;
use crate::ingest::client::token;
use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::{media, wait, web};

/// Browsers start slowly on a busy machine, and take tens of seconds to find their processor slow.
const WITHIN: Duration = Duration::from_secs(180);

/// Messages from one participant to another, in order.
type Mailboxes = Arc<Mutex<HashMap<(String, String), VecDeque<Bytes>>>>;

/// Two participants who call each other. The first one is the caller.
type Link = (&'static str, &'static str);

/// Everything that calls go through, up to the exporter, and the frames so far.
struct World {
    links: BTreeMap<Link, Netem>,
    application: String,
    frames: Arc<Mutex<Vec<(Instant, Value)>>>,
    callsight: Callsight,
    way: Way,
    nats: Nats,
    _tasks: JoinSet<()>,
    _turn: MutexGuard<'static, ()>,
}

/// Tokens, and the way for descriptions from one page to the other.
fn backend() -> impl Filter<Extract = (impl Reply,), Error = Rejection> + Clone {
    let mailboxes = Mailboxes::default();
    let boxes = Arc::clone(&mailboxes);
    let post = warp::path!("signal" / String / String).and(warp::post()).and(warp::body::bytes()).map(
        move |from, to, message| {
            boxes.lock().unwrap().entry((from, to)).or_default().push_back(message);
            StatusCode::NO_CONTENT.into_response()
        },
    );
    let get = warp::path!("signal" / String / String).and(warp::get()).map(move |from, to| {
        let message = mailboxes.lock().unwrap().get_mut(&(from, to)).and_then(VecDeque::pop_front);
        message.map_or_else(
            || StatusCode::NO_CONTENT.into_response(),
            |message| message.to_vec().into_response(),
        )
    });
    let token =
        warp::path!("token" / String).and(warp::get()).map(|peer: String| token(&peer).into_response());
    post.or(get).unify().or(token).unify()
}

impl World {
    /// Starts all but the browsers. Sessions are idle after 10 s.
    async fn start(links: &[Link]) -> Self {
        let turn = media::turn().await;
        let nats = Nats::start();
        let mut callsight = Callsight::serve(&nats, &["--create", "--idle-timeout=10s"]);
        callsight.ready().await;
        let application = web::serve(backend().or(web::pages(include_str!("page.html")))).await;
        let mut way = Way::start(&nats.url(), &["--rate-participant=100", "--allow-origin", &application]);
        way.ready().await;
        let mut relays = BTreeMap::new();
        for (number, link) in (0..).zip(links) {
            relays.insert(*link, Netem::start(number).await.unwrap());
        }
        let frames = Arc::<Mutex<Vec<_>>>::default();
        let mut published = nats.client().await.subscribe("health.diagnostics.>").await.unwrap();
        let mut tasks = JoinSet::new();
        let keep = Arc::clone(&frames);
        tasks.spawn(async move {
            while let Some(message) = published.next().await {
                // `ingest` asks the stream with an empty message whether it stores frames.
                if message.payload.is_empty() {
                    continue;
                }
                let frame = Frame::decode(&message.payload).unwrap();
                keep.lock().unwrap().push((Instant::now(), serde_json::to_value(&frame).unwrap()));
            }
        });
        Self { links: relays, application, frames, callsight, way, nats, _tasks: tasks, _turn: turn }
    }

    /// The address of a participant's page. Those with a camera are shown to all.
    fn page(&self, me: &str, cameras: &[&str]) -> String {
        let camera = json!({ "width": 320, "height": 180, "frameRate": 10 });
        self.page_with(me, cameras, &camera, None)
    }

    /// The same with what the camera is asked for, with an effect, and with a peer to whom the best
    /// video goes in the most laborious way; others get a small one.
    fn page_with(&self, me: &str, cameras: &[&str], camera: &Value, best_to: Option<&str>) -> String {
        let links = self.links.iter().filter_map(|((caller, callee), netem)| {
            let (peer, end) = match () {
                () if *caller == me => (*callee, End::Caller),
                () if *callee == me => (*caller, End::Callee),
                () => return None,
            };
            Some(json!({
                "peer": peer,
                "relay": { "ip": netem.address(end).ip(), "port": netem.address(end).port() },
                "offers": end == End::Caller,
                "video": cameras.contains(&peer),
                "best": best_to.map(|best| best == peer),
            }))
        });
        let setting = json!({
            "me": me,
            "endpoint": format!("http://{}", self.way.target()),
            "links": links.collect::<Vec<_>>(),
            "camera": cameras.contains(&me).then_some(camera),
            "effect": best_to.is_some(),
        });
        format!("{}/#{}", self.application, utf8_percent_encode(&setting.to_string(), NON_ALPHANUMERIC))
    }

    fn relay(&self, from: &str, to: &str) -> (&Netem, End) {
        let found = self.links.iter().find_map(|((caller, callee), netem)| match () {
            () if (*caller, *callee) == (from, to) => Some((netem, End::Caller)),
            () if (*caller, *callee) == (to, from) => Some((netem, End::Callee)),
            () => None,
        });
        found.unwrap_or_else(|| panic!("no link between {from} and {to}"))
    }

    /// Impairs one direction.
    fn impair(&self, from: &str, to: &str, impairment: Impairment) {
        let (netem, end) = self.relay(from, to);
        netem.impair(end, impairment);
    }

    fn counts(&self, from: &str, to: &str) -> Counts {
        let (netem, end) = self.relay(from, to);
        netem.counts(end)
    }

    /// The frames of a participant so far.
    fn frames(&self, of: &str) -> Vec<Value> {
        let frames = self.frames.lock().unwrap();
        frames.iter().map(|(_, frame)| frame).filter(|frame| frame["peer_id"] == of).cloned().collect()
    }

    /// When the last frame of a participant was published.
    fn heard_from(&self, who: &str) -> Instant {
        let frames = self.frames.lock().unwrap();
        frames.iter().rev().find(|(_, frame)| frame["peer_id"] == who).unwrap().0
    }

    /// Waits for a new frame of a participant that is as expected, and returns it.
    async fn frame(&self, of: &str, what: &str, expected: impl Fn(&Value) -> bool) -> Value {
        let before = self.frames(of).len();
        wait::eventually_async(WITHIN, &format!("a frame of {of}: {what}"), async || {
            let frames = self.frames(of);
            let found = frames[before..].iter().find(|frame| expected(frame));
            found.cloned().ok_or_else(|| frames.last().map(Value::to_string))
        })
        .await
    }

    /// Waits until what the triage page's API answers is as expected, and returns it.
    async fn told(&self, what: &str, expected: impl Fn(&Value) -> bool) -> Value {
        wait::eventually_async(WITHIN, what, async || {
            let answer = self.callsight.get("/api/triage").await;
            let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            wait::when(json, |json| expected(json))
                .map_err(|json| format!("{} {} {}", json["verdict"], json["all"], json["worst_sessions"]))
        })
        .await
    }
}

/// A session among the worst of the triage page, by its participant.
fn session<'a>(answer: &'a Value, of: &str) -> &'a Value {
    let sessions = answer["worst_sessions"].as_array().unwrap();
    sessions.iter().find(|session| session["participant_id"] == of).unwrap_or(&Value::Null)
}

/// What a frame says of a peer.
fn peer<'a>(frame: &'a Value, of: &str) -> &'a Value {
    let peers = frame["peers"].as_array().unwrap();
    peers.iter().find(|peer| peer["peer_id"] == of).unwrap_or(&Value::Null)
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

/// By how much a number has grown.
fn growth(first: &Value, last: &Value, pointer: &str) -> f64 {
    number(last, pointer) - number(first, pointer)
}

fn delay(milliseconds: u64) -> Impairment {
    Impairment { delay: Duration::from_millis(milliseconds), ..Impairment::default() }
}

fn loss(share: f64) -> Impairment {
    Impairment { loss: Share::new(share).unwrap(), ..Impairment::default() }
}
