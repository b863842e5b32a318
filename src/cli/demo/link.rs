//! A link between regions that can be cut.
//!
//! Gateways share the addresses of all servers, so a server behind a cut would find another way
//! around any link that is cut as a whole. So each server is reached through a link of its own, and
//! a gateway says who it is: a cut closes only what leads from or to the region.
//!
//! `crates/testkit` compiles this file too.
//!
//! Invariant: while a region is cut off, no connection between it and another cluster stays open.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Longest first line of a gateway.
const LONGEST_LINE: u64 = 64 * 1024;

/// A local proxy to a server's gateway, which ends when dropped.
#[derive(Debug)]
pub struct RegionLink {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl RegionLink {
    /// Opens the link to the gateway of a server of `cluster`. While `cut` is true, connections
    /// between the cluster `beyond` and any other are closed.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn open(
        gateway: SocketAddr,
        cluster: &'static str,
        beyond: &'static str,
        cut: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let crosses = move |from: &str| (from == beyond) != (cluster == beyond);
        Ok(Self { address, task: tokio::spawn(accept(listener, gateway, crosses, cut)) })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for RegionLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    gateway: SocketAddr,
    crosses: impl Fn(&str) -> bool + Copy + Send + 'static,
    cut: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let cut = cut.clone();
        // A connection that breaks is closed at both ends.
        connections.spawn(async move { pass(client, gateway, crosses, cut).await.ok() });
    }
}

async fn pass(
    client: TcpStream,
    gateway: SocketAddr,
    crosses: impl Fn(&str) -> bool,
    mut cut: watch::Receiver<bool>,
) -> io::Result<()> {
    let (mut client, mut server) =
        (BufReader::new(client), BufReader::new(TcpStream::connect(gateway).await?));
    // The server speaks first, and the other gateway's answer names its cluster.
    let info = read_line(&mut server).await?;
    client.write_all(info.as_bytes()).await?;
    let connect = read_line(&mut client).await?;
    let crosses = crosses(cluster_of(&connect));
    if crosses && *cut.borrow() {
        return Ok(());
    }
    server.write_all(connect.as_bytes()).await?;
    tokio::select! {
        passed = copy_bidirectional(&mut client, &mut server) => passed.map(drop),
        // An error means that nobody is left to cut the link.
        Ok(_) = cut.wait_for(|cut| *cut && crosses) => Ok(()),
    }
}

async fn read_line(from: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    from.take(LONGEST_LINE).read_line(&mut line).await?;
    Ok(line)
}

/// The cluster of a gateway, from its `CONNECT {…"gateway":"us"…}`.
fn cluster_of(connect: &str) -> &str {
    let rest = connect.split_once(r#""gateway":""#).map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split('"').next()).unwrap_or_default()
}
