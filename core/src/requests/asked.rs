//! A request as it came, and whom to answer.

use std::sync::Arc;

use milena_wire::Request;

use crate::{ClientContext, ClientId};

/// Who made a request, and how it is to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub client: ClientId,
    pub id: u64,
    pub version: i16,
}

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Asked {
    pub caller: Caller,
    pub request: Request,
    pub context: Arc<ClientContext>,
}
