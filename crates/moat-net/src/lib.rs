//! What a network does with a packet: the executable specification of the data plane.
//!
//! Pure. [`ir::Net`] is lowered from documents elsewhere (`moat-model`); the verifier, `trace` and
//! the data plane's plan all read the same value, so that they cannot disagree about what was meant.
//!
//! Reading order: [`ir`] (the value), [`address`] (what a tag means where), [`nsg`] and [`routes`]
//! (the two tables every subnet has), [`layers`] (one file a layer), [`trace`](mod@trace) (the walk).

pub mod address;
pub mod generate;
pub mod ir;
pub mod layers;
pub mod nsg;
pub mod packet;
mod render;
pub mod routes;
pub mod set;
pub mod tags;
pub mod trace;
