//! The page of `callsight demo --call`: a call in one browser, and the network that it goes through.
//!
//! A real call can only be shown by a browser that makes one, and only a network of the demo's own
//! can be made bad by a slider. So the page has the participants, each a page of its own with the
//! client of `clients/web`, and the media server to which they are connected. Each of those
//! connections goes through a [`Netem`], which this server starts and the page's sliders impair.
//!
//! Invariant: only the page itself may use this server: it answers on the loopback interface, under
//! the one name that is printed, and lets no other origin read or change anything.

mod pages;
mod requests;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::pages::routes;
use self::requests::{Join, Network, Participant};
use crate::cli::CliError;
use crate::http_client::{self, Address, HttpAccess, HttpClient};
use crate::http_server::{self, Gate};
use crate::ingest::tokens::{SigningKey, new_claims};
use crate::netem::{End, Netem};
use crate::simulate::IngestTarget;

/// The usual port.
pub(super) const PORT: u16 = 9480;

/// The meeting of the call.
const MEETING: &str = "demo-call";

/// How long a token is good. The page asks for another one when it has expired.
const TOKEN_FOR: Duration = Duration::from_secs(60 * 60);

/// Connections of a few tabs.
const MAX_CONNECTIONS: usize = 64;

/// The most that is read of Prometheus's alerts, in bytes.
const ALERTS_BYTES: u64 = 1 << 20;

/// Where the page's parts are.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) page: SocketAddr,
    pub(super) ingest: IngestTarget,
    pub(super) triage: SocketAddr,
    /// Absent if Prometheus is not installed.
    pub(super) prometheus: Option<SocketAddr>,
}

/// The origin of a page at this address.
pub(super) fn origin(page: SocketAddr) -> String {
    format!("http://{page}")
}

/// The running page. It ends when stopped.
pub(super) struct CallPage {
    http: JoinHandle<()>,
    stop: watch::Sender<bool>,
    _background: JoinSet<()>,
}

impl CallPage {
    pub(super) async fn start(places: Places) -> Result<Self, CliError> {
        let mut background = JoinSet::new();
        let gate = Gate::new(None, &[], &mut background).map_err(CliError::other)?;
        let address = places.page;
        let listener = TcpListener::bind(address).await.map_err(|error| {
            CliError::caused(format!("cannot listen on {address} for the page; try again"), error)
        })?;
        let (stop, stopping) = watch::channel(false);
        let routes = routes(Arc::new(Call::new(places)?));
        let http = tokio::spawn(http_server::serve(listener, MAX_CONNECTIONS, gate, routes, stopping));
        Ok(Self { http, stop, _background: background })
    }

    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        // It has nothing to lose.
        let _ = self.http.await;
    }
}

/// What the routes work with.
struct Call {
    places: Places,
    client: HttpClient,
    /// The network between each participant and the media server, and how it is impaired.
    networks: Mutex<HashMap<Participant, (Option<Netem>, Network)>>,
}

impl Call {
    fn new(places: Places) -> Result<Self, CliError> {
        let client = HttpClient::probing(&HttpAccess::default()).map_err(CliError::other)?;
        Ok(Self { places, client, networks: Mutex::default() })
    }

    /// Starts a network for a participant who joins, in place of the one before, with the same
    /// impairment.
    async fn join(&self, Join { participant }: Join) -> io::Result<Value> {
        let netem = Netem::start(rand::random()).await?;
        let [caller, callee] = [End::Caller, End::Callee].map(|end| netem.address(end));
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let (running, network) = networks.entry(participant).or_default();
        network.apply(&netem);
        *running = Some(netem);
        Ok(json!({
            "host": caller.ip(),
            "participant_port": caller.port(),
            "server_port": callee.port(),
        }))
    }

    /// Impairs a participant's network from now on.
    fn impair(&self, participant: Participant, network: Network) {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let (running, before) = networks.entry(participant).or_default();
        *before = network;
        if let Some(netem) = running {
            network.apply(netem);
        }
    }

    fn token(&self, Join { participant }: Join) -> Option<String> {
        let key = SigningKey::Hs256(self.places.ingest.secret.clone().into_bytes());
        key.sign(&new_claims(MEETING, participant.id(), None, TOKEN_FOR), None)
    }

    /// What the page must know, beside its own address.
    fn setup(&self) -> Value {
        let Places { ingest, triage, .. } = &self.places;
        json!({
            "meeting": MEETING,
            "endpoint": format!("http://{}", ingest.address),
            "triage": format!("http://{triage}/"),
        })
    }

    /// Prometheus's alerts; the error says why there are none.
    async fn alerts(&self) -> Result<Value, String> {
        let Some(prometheus) = self.places.prometheus else {
            return Err("Prometheus is not installed; `./dev demo --call` downloads it".to_owned());
        };
        let from: Address = origin(prometheus).parse().map_err(|_| "no address".to_owned())?;
        let asked = self.client.get(&from, "api/v1/alerts", ALERTS_BYTES, http_client::json::<Value>).await;
        match asked {
            Ok((200, Ok(mut answer))) => Ok(json!({ "alerts": answer["data"]["alerts"].take() })),
            Ok((status, _)) => Err(format!("Prometheus answers {status}")),
            Err(error) => Err(format!("Prometheus does not answer: {error}")),
        }
    }
}
