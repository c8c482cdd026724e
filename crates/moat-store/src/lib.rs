//! moat-store
