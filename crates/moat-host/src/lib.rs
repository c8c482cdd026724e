//! moat-host
