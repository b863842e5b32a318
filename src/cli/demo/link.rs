//! A link that can be cut: what stands for the ocean between the regions.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::cli::CliError;

/// Passes connections on to a server. Ends when dropped.
pub(super) struct Link {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Link {
    /// One that leads to a server on this machine, for as long as `cut` is false. A cut closes what is open, and
    /// new connections at once.
    pub(super) async fn to(server: SocketAddr, cut: watch::Receiver<bool>) -> Result<Self, CliError> {
        let (listener, address) = listen().await?;
        Ok(Self { address, task: tokio::spawn(accept(listener, server, cut)) })
    }

    /// One that is never cut, for one connection at a time. Gateways tell each other every address that they
    /// know, and whoever is cut off would come back by this one; while it is in use, it leads nowhere else.
    pub(super) async fn for_one(server: SocketAddr) -> Result<Self, CliError> {
        let (listener, address) = listen().await?;
        Ok(Self { address, task: tokio::spawn(accept_one(listener, server)) })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen() -> Result<(TcpListener, SocketAddr), CliError> {
    let cannot = |error| CliError::caused("cannot make a link between the regions", error);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    Ok((listener, address))
}

async fn accept_one(listener: TcpListener, server: SocketAddr) {
    let mut connection = JoinSet::new();
    loop {
        let Ok((mut client, _)) = listener.accept().await else { continue };
        while connection.try_join_next().is_some() {}
        if connection.is_empty() {
            connection.spawn(async move {
                let Ok(mut server) = TcpStream::connect(server).await else { return };
                // Either side may end it.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, cut: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let cut = cut.clone();
        if !*cut.borrow() {
            connections.spawn(pass(client, server, cut));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr, mut cut: watch::Receiver<bool>) {
    // Whoever finds nobody there is hung up on.
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = cut.wait_for(|cut| *cut) => {}
    }
}
