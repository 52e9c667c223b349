//! The production driver with madsim's executor, network and clock in the place of the real ones: every module is the driver's own
//! file, connections, worker and disk loops included; only `runtime` is another.

#[path = "../../../net/src/accept.rs"]
pub mod accept;
#[path = "../../../net/src/files/mod.rs"]
pub mod files;
#[path = "../../../net/src/frames.rs"]
pub mod frames;
#[path = "../../../net/src/host.rs"]
pub mod host;
#[path = "../../../net/src/kafka.rs"]
pub mod kafka;
#[path = "../../../net/src/links.rs"]
pub mod links;
#[path = "../../../net/src/metrics.rs"]
pub mod metrics;
#[path = "../../../net/src/node.rs"]
pub mod node;
#[path = "../../../net/src/peers.rs"]
pub mod peers;
#[path = "../../../net/src/report.rs"]
pub mod report;
pub mod runtime;
#[path = "../../../net/src/warnings.rs"]
pub mod warnings;
#[path = "../../../net/src/watch.rs"]
pub mod watch;
