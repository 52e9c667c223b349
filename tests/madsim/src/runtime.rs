//! The driver's runtime under madsim: its deterministic executor, sockets and clock.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};

#[path = "../../simulated/runtime.rs"]
mod simulated;

pub use simulated::*;

/// The simulated time since 1970: madsim moves the system's clock.
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Lets others run. Time passes too: on an executor without threads nothing else would move it.
pub async fn yield_now() {
    tokio::time::sleep(Duration::from_micros(1)).await;
}

/// A madsim connection with what the driver uses of tokio's: halves, and writes that go out without a flush.
pub struct TcpStream(tokio::net::TcpStream);

/// Its reading half.
pub type OwnedReadHalf = ReadHalf<TcpStream>;
/// Its writing half.
pub type OwnedWriteHalf = WriteHalf<TcpStream>;

impl TcpStream {
    /// Connects.
    pub async fn connect(address: &str) -> io::Result<TcpStream> {
        tokio::net::TcpStream::connect(address).await.map(TcpStream)
    }

    /// Says yes.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.0.set_nodelay(on)
    }

    /// The other side.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.peer_addr()
    }

    /// Both halves.
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        tokio::io::split(self)
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.0).poll_write(cx, bytes))?;
        // madsim keeps what was written until a flush, which a socket does not need.
        ready!(Pin::new(&mut self.0).poll_flush(cx))?;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A listener.
pub struct TcpListener(tokio::net::TcpListener);

impl TcpListener {
    /// Listens.
    pub async fn bind(address: String) -> io::Result<TcpListener> {
        tokio::net::TcpListener::bind(address).await.map(TcpListener)
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.accept().await.map(|(stream, address)| (TcpStream(stream), address))
    }
}

/// Bytes of the seed's stream.
pub fn entropy<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    madsim::rand::RngCore::fill_bytes(&mut madsim::rand::thread_rng(), &mut bytes);
    Ok(bytes)
}
