//! moat-server
