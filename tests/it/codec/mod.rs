//! The codec of both ends: cases of the protocol, properties, and values against Python's.

mod cases;
mod properties;
mod python_repr;
