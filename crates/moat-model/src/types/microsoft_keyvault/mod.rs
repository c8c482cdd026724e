//! `Microsoft.KeyVault`.

pub mod vaults;
