//! The driver's runtime under madsim: its deterministic executor, sockets and clock. The names are those of
//! `net/src/runtime.rs`; everything else of the driver is compiled as it is.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use milena_core::{Instant, Now};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};

pub use tokio::io::{AsyncReadExt, AsyncWriteExt};
pub use tokio::select;
pub use tokio::sync::{Notify, mpsc};
pub use tokio::task::AbortHandle;

/// How long the simulated disk takes for what it is given at once.
const DISK_LATENCY: Duration = Duration::from_micros(200);

/// The node's clock.
#[derive(Clone, Copy)]
pub struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// A clock that reads zero now.
    pub fn start() -> Clock {
        Clock { origin: tokio::time::Instant::now() }
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.mono(), wall: wall.as_millis() as i64 }
    }

    /// Reads the monotonic one.
    pub fn mono(&self) -> Instant {
        Instant(self.origin.elapsed().as_nanos() as u64)
    }

    /// Waits until a moment on this clock; for ever where there is none.
    pub async fn sleep_until(&self, moment: Option<Instant>) {
        match moment {
            Some(moment) => {
                tokio::time::sleep_until(self.origin + Duration::from_nanos(moment.0)).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// Waits.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Lets others run. Time passes too: on an executor without threads nothing else would move it.
pub async fn yield_now() {
    tokio::time::sleep(Duration::from_micros(1)).await;
}

/// Runs a future beside the others of this node.
pub fn spawn(future: impl Future<Output = ()> + 'static) -> AbortHandle {
    tokio::task::spawn_local(future).abort_handle()
}

/// A worker: a local task, since a madsim node has no threads.
pub struct Thread;

impl Thread {
    /// Starts it.
    pub fn start<F: Future<Output = ()> + 'static>(
        _name: String,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Thread> {
        tokio::task::spawn_local(make());
        Ok(Thread)
    }

    /// A node ends as a whole.
    pub fn join(self) -> bool {
        true
    }
}

/// A disk that takes simulated time: a local task that does its work in order.
pub struct DiskThread<W> {
    sender: mpsc::UnboundedSender<W>,
}

impl<W: Send + 'static> DiskThread<W> {
    /// Starts it; it ends when this is dropped and all that was sent is done.
    pub fn start(_name: String, mut work: impl FnMut(W) + Send + 'static) -> io::Result<Self> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            while let Some(piece) = receiver.recv().await {
                tokio::time::sleep(DISK_LATENCY).await;
                work(piece);
            }
        });
        Ok(DiskThread { sender })
    }

    /// Sends it work.
    pub fn send(&self, work: W) {
        // The task ends before this only with its node.
        let _ = self.sender.send(work);
    }
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
    /// The next connection.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.accept().await.map(|(stream, address)| (TcpStream(stream), address))
    }
}

/// A connection on its way to another worker, which is on the same thread here.
pub struct Detached(TcpStream);

impl Detached {
    /// Takes a connection.
    pub fn new(stream: TcpStream) -> io::Result<Detached> {
        Ok(Detached(stream))
    }

    /// Gives it.
    pub fn attach(self) -> io::Result<TcpStream> {
        Ok(self.0)
    }
}

/// An address that will be listened on.
pub struct Bound(String);

impl Bound {
    /// The address it got.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no address"))
    }
}

/// Notes the address; madsim binds when it listens.
pub fn bind(address: &str) -> io::Result<Bound> {
    Ok(Bound(address.into()))
}

/// Listens.
pub async fn listen(bound: Bound) -> io::Result<TcpListener> {
    tokio::net::TcpListener::bind(bound.0).await.map(TcpListener)
}

/// Bytes of the seed's stream.
pub fn entropy() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    madsim::rand::RngCore::fill_bytes(&mut madsim::rand::thread_rng(), &mut bytes);
    Ok(bytes)
}
