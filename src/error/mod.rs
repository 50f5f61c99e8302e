//! The parts of an [`Error`], and the errors of values that are invalid before anything is sent.

pub(crate) mod call;

pub use call::{BatchError, ConnectionError, InvalidAddress};
pub(crate) use call::{Delivery, Error};

pub use crate::{
    metric::InvalidKey,
    protocol::{InvalidSample, NonFiniteValue},
};
