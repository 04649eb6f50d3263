//! [`Bridge`]: a TCP port of the loopback that leads to a Unix socket, for programs that know no other address.
//!
//! Whoever may open the port reaches the daemon: this is for the socket of a rig, and for no other.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tokio::io::{AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinSet;

use crate::worker::Worker;

/// The port. Dropping it closes it and what goes through it.
#[derive(Debug)]
pub struct Bridge {
    addr: SocketAddr,
    _worker: Worker,
}

impl Bridge {
    /// Listens on a free port; each of its connections is one to the socket.
    pub fn to(socket: impl Into<PathBuf>) -> Self {
        let socket = socket.into();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let worker = Worker::start("bridge", move |stop| async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let mut connections = JoinSet::new();
            let accept = async {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    let socket = socket.clone();
                    connections.spawn(async move {
                        let daemon = UnixStream::connect(&socket).await?;
                        let (mut from_client, mut to_client) = client.into_split();
                        let (mut from_daemon, mut to_daemon) = daemon.into_split();
                        // Each way by itself: an answer passes also when what was sent was not read.
                        let there = async {
                            copy(&mut from_client, &mut to_daemon).await?;
                            to_daemon.shutdown().await
                        };
                        let back = async {
                            copy(&mut from_daemon, &mut to_client).await?;
                            to_client.shutdown().await
                        };
                        let (there, back) = tokio::join!(there, back);
                        there.and(back)
                    });
                    // Those that have ended, however that was: a client sees it.
                    while connections.try_join_next().is_some() {}
                }
            };
            stop.run_until_cancelled(accept).await;
            connections.shutdown().await;
        });
        Self { addr, _worker: worker }
    }

    /// Returns the address to give to a program: the name is one that the daemon goes by.
    pub fn url(&self) -> String {
        format!("http://localhost:{}", self.addr.port())
    }
}
