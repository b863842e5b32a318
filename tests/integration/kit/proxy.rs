//! A link between a client and a server that breaks on command.
//!
//! Links fail in three ways, and each reveals other faults: both ends notice that a link is cut; a
//! stalled link delivers later; and if one end vanishes, the other keeps sending to nobody.

use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Listens on a port on 127.0.0.1 and forwards everything. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    link: watch::Sender<Link>,
    task: JoinHandle<()>,
}

/// The faults of the link. Connections are numbered from 1.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The number of the last connection.
    last: u64,
    /// Connections up to this one are closed at both ends.
    cut: u64,
    /// Connections up to this one are open, and nothing is forwarded.
    void: u64,
    /// Whether everything that is sent waits.
    stalled: bool,
}

impl Proxy {
    /// Makes a link to a port on 127.0.0.1, on which nobody needs to listen yet.
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (link, _) = watch::channel(Link::default());
        let task = tokio::spawn(accept(listener, server, link.clone()));
        Self { port, link, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// [`Self::url`] for a user of a super-cluster.
    pub(crate) fn url_as(&self, user: &str) -> String {
        format!("nats://{user}:{user}-secret@{}", self.address())
    }

    /// Closes all connections and loses what is in flight. New ones may be made at once.
    pub(crate) fn cut(&self) {
        self.link.send_modify(|link| link.cut = link.last);
    }

    /// Holds back everything that is sent from now on.
    pub(crate) fn stall(&self) {
        self.link.send_modify(|link| link.stalled = true);
    }

    /// Forwards what was held back.
    pub(crate) fn resume(&self) {
        self.link.send_modify(|link| link.stalled = false);
    }

    /// Keeps the connections open and forwards nothing until they are cut: neither end notices that
    /// the other is gone.
    pub(crate) fn lose(&self) {
        self.link.send_modify(|link| link.void = link.last);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server: u16, link: watch::Sender<Link>) {
    // Ends all connections on drop.
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        link.send_modify(|link| link.last += 1);
        let number = link.borrow().last;
        connections.spawn(connect(client, server, number, link.subscribe()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(client: TcpStream, server: u16, number: u64, link: watch::Receiver<Link>) {
    let mut cut = link.clone();
    // A connection is closed if nobody listens at the other end.
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = pass(from_client, to_server, number, link.clone()) => {}
        () = pass(from_server, to_client, number, link) => {}
        _ = cut.wait_for(|link| link.cut >= number) => {}
    }
}

/// Forwards what one end sends until it closes.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, number: u64, mut link: watch::Receiver<Link>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        let _ = link.wait_for(|link| !link.stalled || link.void >= number).await;
        let void = link.borrow().void >= number;
        match length {
            0 if void => pending().await,
            0 => return,
            _ if void => {}
            _ => {
                if to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
