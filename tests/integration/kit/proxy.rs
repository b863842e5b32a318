//! A link that breaks on command, between a client and a server that both think that they are directly connected.
//!
//! Links fail in three ways, and each finds other faults: they are cut, and both ends know; they stall, and what is
//! under way arrives later; or one end vanishes, and the other goes on sending to nobody.

use std::future::pending;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Listens on a port of its own on 127.0.0.1 and passes everything on. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    link: watch::Sender<Link>,
    task: JoinHandle<()>,
}

/// What is wrong with the link. Connections are numbered as they come, from 1.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The last connection that was made.
    last: u64,
    /// Connections up to this one are closed at both ends.
    cut: u64,
    /// Connections up to this one are open, and what either end sends goes nowhere.
    void: u64,
    /// What is sent has to wait.
    stalled: bool,
}

impl Proxy {
    /// A link to a port on 127.0.0.1, where nobody need listen yet.
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (link, _) = watch::channel(Link::default());
        let task = tokio::spawn(accept(listener, server, link.clone()));
        Self { port, link, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> u64 {
        self.link.borrow().last
    }

    /// Closes all connections, and loses what is under way. New ones may be made at once.
    pub(crate) fn cut(&self) {
        self.link.send_modify(|link| link.cut = link.last);
    }

    /// Holds back everything that is sent from now on.
    pub(crate) fn stall(&self) {
        self.link.send_modify(|link| link.stalled = true);
    }

    /// Lets what was held back go on.
    pub(crate) fn resume(&self) {
        self.link.send_modify(|link| link.stalled = false);
    }

    /// The connections stay open and lead nowhere, until they are cut: neither end hears of the other's death.
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
    // Ends all connections with itself.
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
    // Whoever finds nobody there is hung up on.
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = pass(from_client, to_server, number, link.clone()) => {}
        () = pass(from_server, to_client, number, link) => {}
        _ = cut.wait_for(|link| link.cut >= number) => {}
    }
}

/// Passes on what one end sends, until it is closed.
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
