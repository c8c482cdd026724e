//! What a network does with a packet: the executable specification of the data plane.
//!
//! Pure. [`ir::Net`] is lowered from documents elsewhere (`moat-model`); the verifier, `trace` and
//! the data plane's plan all read the same value, so that they cannot disagree about what was meant.

pub mod ir;
