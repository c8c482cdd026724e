//! moat-agent
