//! A request as it came.

use std::sync::Arc;

use milena_wire::Request;

use crate::ClientContext;
use crate::local::Caller;

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Asked {
    pub caller: Caller,
    pub request: Request,
    pub context: Arc<ClientContext>,
}
