//! The kernels that the machine can run, and their drivers.

pub mod free;
pub mod steps;
