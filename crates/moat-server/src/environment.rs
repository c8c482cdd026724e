//! Who this environment is: tenant, subscription and its own service principal. Made at the first
//! start, the same ever after.

use std::io;
use std::path::Path;

use moat_control::Principal;
use moat_model::Edition;
use moat_store::{Store, StoreError};

use crate::random;
use crate::secrets::{self, Secret};

const SECRET_FILE: &str = "client.secret";

/// Why the environment's identity cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// The store.
    #[error("reading the environment's ids")]
    Store(#[from] StoreError),
    /// The secret's file.
    #[error("reading or writing the client secret")]
    Secret(#[source] io::Error),
    /// No randomness.
    #[error("making the client secret")]
    Random(#[from] random::NoRandomness),
    /// The state was made for another edition; what is stored may not be valid in this one.
    #[error(
        "the environment was made with edition `{made}`, not `{asked}`; use another environment name or `moat down --purge`"
    )]
    Edition {
        /// At the first start.
        made: String,
        /// Now.
        asked: Edition,
    },
}

/// Ids and the secret of one environment.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Its name (`-e NAME`).
    pub name: String,
    /// Which text applies.
    pub edition: Edition,
    /// Tenant id.
    pub tenant: String,
    /// The one subscription.
    pub subscription: String,
    /// Application id of the environment's own principal.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
    /// Its object id.
    pub object_id: String,
}

impl Environment {
    /// Reads the ids from the state, making them at the first start.
    pub(crate) fn open(name: &str, edition: Edition, state: &Path, store: &Store) -> Result<Self, EnvironmentError> {
        let fixed = |key: &str, fresh: String| -> Result<String, EnvironmentError> {
            match store.meta(key)? {
                Some(value) => Ok(value),
                None => {
                    store.set_meta(key, &fresh)?;
                    Ok(fresh)
                }
            }
        };
        let id = || random::uuid().to_string();
        let made = fixed("edition", edition.to_string())?;
        if made != edition.as_str() {
            return Err(EnvironmentError::Edition { made, asked: edition });
        }
        let path = state.join(SECRET_FILE);
        let client_secret = match secrets::read_if_there(&path).map_err(EnvironmentError::Secret)? {
            Some(bytes) => Secret::new(String::from_utf8_lossy(&bytes).trim().to_owned()),
            None => {
                let secret = random::secret()?;
                secrets::write_private(&path, secret.reveal().as_bytes()).map_err(EnvironmentError::Secret)?;
                secret
            }
        };
        Ok(Self {
            name: name.to_owned(),
            edition,
            tenant: fixed("tenant", id())?,
            subscription: fixed("subscription", id())?,
            client_id: fixed("client_id", id())?,
            object_id: fixed("object_id", id())?,
            client_secret,
        })
    }

    /// The environment's own principal: Owner of its subscription.
    pub fn principal(&self) -> Principal {
        Principal {
            object_id: self.object_id.clone(),
            app_id: self.client_id.clone(),
            name: format!("moat-{}", self.name),
            run: None,
        }
    }
}
