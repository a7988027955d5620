//! A way to Redis whose connections can freeze: open, but nothing passes any more, as after a
//! firewall has forgotten them. New connections work.

use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug)]
pub struct FreezingProxy {
    port: u16,
    generation: Arc<watch::Sender<u64>>,
}

impl FreezingProxy {
    /// Forwards to a port on loopback.
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let generation = Arc::new(watch::Sender::new(0_u64));
        let current = Arc::clone(&generation);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
                    continue;
                };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                tokio::spawn(forward(near_in, far_out, current.subscribe()));
                tokio::spawn(forward(far_in, near_out, current.subscribe()));
            }
        });
        Self { port, generation }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Freezes the connections that are open now.
    pub fn freeze(&self) {
        self.generation.send_modify(|n| *n += 1);
    }
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut frozen: watch::Receiver<u64>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            biased;
            _ = frozen.changed() => std::future::pending::<()>().await,
            read = from.read(&mut buffer) => match read {
                Ok(n) if n > 0 => {
                    if to.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}
