//! A link between regions that can be cut.
//!
//! Invariant: while a link is cut, no connection through it stays open.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::cli::CliError;

/// A local proxy to a server, which ends when dropped.
pub(super) struct RegionLink {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl RegionLink {
    /// Opens a link to a server on this machine. While `cut` is true, open and new connections are
    /// closed.
    pub(super) async fn to(server: SocketAddr, cut: watch::Receiver<bool>) -> Result<Self, CliError> {
        Self::open(server, cut, usize::MAX).await
    }

    /// Opens a link that is never cut, for one connection at a time. Gateways share all addresses,
    /// so a server behind a cut would otherwise reconnect through this one.
    pub(super) async fn for_one(server: SocketAddr) -> Result<Self, CliError> {
        Self::open(server, watch::channel(false).1, 1).await
    }

    async fn open(server: SocketAddr, cut: watch::Receiver<bool>, most: usize) -> Result<Self, CliError> {
        let cannot = |error| CliError::caused("cannot open a link between the regions", error);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        Ok(Self { address, task: tokio::spawn(accept(listener, server, cut, most)) })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for RegionLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes up to `most` connections at a time to the server, and closes all others.
async fn accept(listener: TcpListener, server: SocketAddr, cut: watch::Receiver<bool>, most: usize) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let cut = cut.clone();
        if !*cut.borrow() && connections.len() < most {
            connections.spawn(pass(client, server, cut));
        }
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr, mut cut: watch::Receiver<bool>) {
    // Without a server, the client's connection is closed.
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        // An error means that nobody is left to cut the link.
        Ok(_) = cut.wait_for(|cut| *cut) => {}
    }
}
