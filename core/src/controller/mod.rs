//! The controller: pure functions from the image and a request to metadata records.
//!
//! Each function here looks at an image and a request and gives the records that answer it, or a refusal; it keeps and
//! sends nothing. What commits the records, and the little that is remembered between requests (sessions, the queue), is
//! [`crate::metadata`]. Every change of a partition goes through one function, [`partition_change`], whose result is
//! asserted to be a sane one: KIP-966 is in that file and nowhere else.

mod admin;
mod alter_partition;
mod broker;
mod damaged;
pub mod message;
mod partition_change;
mod preferred;
mod producer_ids;
mod topics;

pub use admin::{Topics, administer};
pub use alter_partition::alter_partition;
pub use broker::{Leaving, confirm, fence, leave, register};
pub use damaged::damaged;
pub use partition_change::{Change, partition_change};
pub use preferred::{Preferred, give_back};
pub use producer_ids::allocate_producer_ids;
pub use topics::is_topic_name;

#[cfg(test)]
pub(crate) mod tests;
