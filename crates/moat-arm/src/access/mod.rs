//! Who may do what: evaluation as functions over a snapshot.
//!
//! Only role assignments are here. Locks, policy and deny assignments come with governance.

pub mod rbac;
