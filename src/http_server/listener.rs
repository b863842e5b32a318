//! The listener: warp's routes behind the gate and behind limits that warp's own server lacks.
//!
//! Anybody who reaches the port can open connections and stay silent. So handshakes and headers
//! have a deadline, headers have a maximum size, and connections a maximum number: no crowd of them
//! slows the fold or keeps a scraper out.
//!
//! Invariant: every connection has a slot, and every wait for a client has a deadline.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use warp::Filter;
use warp::reply::Reply;

use super::connections::{Connections, Slot};
use super::gate::Gate;

/// How long a client may take for the TLS handshake, and for the headers of each request.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);

/// The maximum size of a request's headers, in bytes.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// How long open responses may take after the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// The address of the connection that a request came over, an extension of each request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerAddress(pub(crate) SocketAddr);

/// Serves until `shutdown` turns true, then waits up to [`GRACE`] for open responses. At most
/// `most` connections are open at a time: beyond that, a new one replaces a silent one.
pub(crate) async fn serve<F>(
    listener: TcpListener,
    most: usize,
    gate: Arc<Gate>,
    routes: F,
    mut shutdown: watch::Receiver<bool>,
) where
    F: Filter<Error = Infallible> + Clone + Send + Sync + 'static,
    F::Extract: Reply,
{
    let server = Arc::new(HttpServer { http: protocol(), gate, routes });
    let connections = Connections::at_most(most);
    let open = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, PeerAddress(peer)),
            Err(error) => {
                // Most likely out of file descriptors, which become free as connections close.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(slot) = connections.admit(Instant::now()) else {
            tracing::debug!("connection refused: all others are being answered");
            continue;
        };
        let (server, watcher) = (Arc::clone(&server), open.watcher());
        tokio::spawn(async move {
            tokio::select! {
                () = server.connection(stream, peer, &slot, watcher) => {}
                () = slot.replaced() => tracing::debug!("a silent connection was replaced by a new one"),
            }
        });
    }
    drop(listener);
    if timeout(GRACE, open.shutdown()).await.is_err() {
        tracing::debug!("responses were cut off by the shutdown");
    }
}

/// HTTP with limits for heads.
pub(crate) fn protocol() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).max_buf_size(MAX_HEADER_BYTES);
    http
}

/// The parts that all connections share.
struct HttpServer<F> {
    http: http1::Builder,
    gate: Arc<Gate>,
    routes: F,
}

impl<F> HttpServer<F>
where
    F: Filter<Error = Infallible> + Clone + Send + Sync + 'static,
    F::Extract: Reply,
{
    /// Serves a connection to its end, over TLS if the gate asks for it.
    async fn connection(&self, stream: TcpStream, peer: PeerAddress, slot: &Arc<Slot>, watcher: Watcher) {
        let Some(acceptor) = self.gate.acceptor() else {
            return self.requests(stream, peer, slot, watcher).await;
        };
        match timeout(HEADERS_WITHIN, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.requests(stream, peer, slot, watcher).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
    }

    async fn requests<S>(&self, stream: S, peer: PeerAddress, slot: &Arc<Slot>, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let routes = TowerToHyperService::new(warp::service(self.routes.clone()));
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            let answering = slot.answering();
            let routes = routes.clone();
            async move {
                let response = match self.gate.refuse(&request).await {
                    Some(refusal) => refusal,
                    None => routes.call(request).await?.into_response(),
                };
                // The body keeps the mark until all of it has been handed over.
                let marked = move |error| {
                    let _ = &answering;
                    error
                };
                Ok::<_, Infallible>(response.map(|body| body.map_err(marked)))
            }
        });
        let connection = watcher.watch(self.http.serve_connection(TokioIo::new(stream), service));
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection closed");
        }
    }
}
