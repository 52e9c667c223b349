//! The driver's runtime under turmoil: its sockets and its clock.

use std::cell::Cell;
use std::io;
use std::time::Duration;

#[path = "../../simulated/runtime.rs"]
mod simulated;

pub use simulated::*;
pub use tokio::task::yield_now;
pub use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
pub use turmoil::net::{TcpListener, TcpStream};

/// The simulated time since 1970.
fn wall() -> Duration {
    turmoil::since_epoch().unwrap_or_default()
}

/// Other bytes at each start, the same in each run.
pub fn entropy<const N: usize>() -> io::Result<[u8; N]> {
    thread_local!(static STARTS: Cell<u64> = const { Cell::new(0) });
    let start = STARTS.replace(STARTS.get() + 1);
    let mut bytes = [7; N];
    bytes.iter_mut().zip(start.to_le_bytes()).for_each(|(byte, start)| *byte = start);
    Ok(bytes)
}
