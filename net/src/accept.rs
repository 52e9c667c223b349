//! Accepting connections, also where the process is out of descriptors: for a while that is waited out, for ever is an end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use milena_core::Halt;

use crate::runtime::{self, Clock, TcpListener, TcpStream};
use crate::warnings::{Kind, Warnings};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// A node that has no descriptor to give for this long ends, milliseconds: it would be there for nobody.
pub const EXHAUSTED_MS: u64 = 10_000;

/// What an operator does about a lack of descriptors.
pub fn exhausted() -> Halt {
    Halt::Operator(format!(
        "out of file descriptors for {} s: raise the limit of open files (LimitNOFILE of a systemd unit, ulimit -n of a shell, fs.file-max of the system) or lower --connections-max",
        EXHAUSTED_MS / 1_000
    ))
}

/// Whether it says that the process or the system has no descriptor left.
pub fn is_exhaustion(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// A listener with what it says when it can't accept.
pub struct Acceptor {
    /// Where connections come in.
    pub listener: TcpListener,
    /// Whose connections.
    pub whom: &'static str,
    /// For how long it can't.
    pub clock: Clock,
    /// For the log.
    pub warnings: Arc<Warnings>,
}

impl Acceptor {
    /// The next connection.
    ///
    /// # Errors
    ///
    /// Where there was no descriptor for one for too long.
    pub async fn next(&self) -> Result<(TcpStream, SocketAddr), Halt> {
        let mut exhausted_since = None;
        loop {
            let error = match self.listener.accept().await {
                Ok(accepted) => return Ok(accepted),
                Err(error) => error,
            };
            let now = self.clock.mono();
            let whom = self.whom;
            self.warnings.warn_of_own(now, Kind::NotAccepted, || {
                format!("no connection from {whom} can be accepted: {error}")
            });
            if is_exhaustion(&error) {
                let since = *exhausted_since.get_or_insert(now);
                if now.ms_since(since) >= EXHAUSTED_MS {
                    return Err(exhausted());
                }
            } else {
                exhausted_since = None;
            }
            runtime::sleep(PAUSE).await;
        }
    }
}
