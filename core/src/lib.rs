//! Every decision of the broker.
