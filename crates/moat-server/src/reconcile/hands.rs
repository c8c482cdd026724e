//! What the loops ask of the helper process. A trait, so that tests can stand in for the kernel.

use std::os::fd::{BorrowedFd, OwnedFd};

use moat_host::{NsName, SocketSpec, Step};

/// Why the helper could not do it. The chain goes to the log; clients never see it.
#[derive(Debug, thiserror::Error)]
pub enum HandsError {
    /// The helper refused or failed.
    #[error("the network helper could not {what}")]
    Helper {
        /// Verb and object.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A thread or socket on our side.
    #[error("the server could not prepare a listener")]
    Io(#[from] std::io::Error),
}

/// The helper, as the loops see it. Every call may block for one request.
pub trait Hands: Send + Sync + 'static {
    /// Carries out steps in order; on an error some may have been done.
    fn apply(&self, steps: &[Step]) -> Result<(), HandsError>;
    /// Removes every namespace and agent it made.
    fn reset(&self) -> Result<(), HandsError>;
    /// Makes a socket inside a namespace.
    fn socket(&self, ns: &NsName, spec: &SocketSpec) -> Result<OwnedFd, HandsError>;
    /// A netlink socket that receives the firewall log of a namespace.
    fn flow_log(&self, ns: &NsName) -> Result<OwnedFd, HandsError>;
    /// Starts the agent `id` in a namespace.
    fn spawn(&self, ns: &NsName, id: &str, config: &str) -> Result<(), HandsError>;
    /// Starts the agent `id` that may write the folder `environment`; it tells what it does to `told`.
    fn spawn_builder(
        &self,
        ns: &NsName,
        id: &str,
        config: &str,
        environment: &str,
        told: BorrowedFd<'_>,
    ) -> Result<(), HandsError>;
    /// Removes what lies in the folder of an environment.
    fn clear_environment(&self, environment: &str) -> Result<(), HandsError>;
    /// Ends the agent `id`; one that is not there is no error.
    fn kill(&self, id: &str) -> Result<(), HandsError>;
    /// Agents that ended by themselves since the last call.
    fn exited(&self) -> Result<Vec<String>, HandsError>;
    /// Differences between the plan and the kernel, as sentences; empty means they agree.
    fn verify(&self, plan: &moat_host::HostPlan) -> Result<Vec<String>, HandsError>;
}

fn failed(what: impl Into<String>) -> impl FnOnce(moat_host::HostError) -> HandsError {
    let what = what.into();
    move |source| HandsError::Helper { what, source: Box::new(source) }
}

impl Hands for moat_host::HostClient {
    fn apply(&self, steps: &[Step]) -> Result<(), HandsError> {
        self.apply(steps.to_vec()).map_err(failed(format!("apply {} steps", steps.len())))
    }
    fn reset(&self) -> Result<(), HandsError> {
        self.reset().map_err(failed("clear the network"))
    }
    fn socket(&self, ns: &NsName, spec: &SocketSpec) -> Result<OwnedFd, HandsError> {
        self.socket(ns, spec.clone()).map_err(failed(format!("make a socket in {ns}")))
    }
    fn flow_log(&self, ns: &NsName) -> Result<OwnedFd, HandsError> {
        self.nflog(ns, moat_host::layout::LOG_GROUP).map_err(failed(format!("open the firewall log of {ns}")))
    }
    fn spawn(&self, ns: &NsName, id: &str, config: &str) -> Result<(), HandsError> {
        self.spawn(ns, id, config.to_owned(), None).map_err(failed(format!("start the agent {id}")))
    }
    fn spawn_builder(
        &self,
        ns: &NsName,
        id: &str,
        config: &str,
        environment: &str,
        told: BorrowedFd<'_>,
    ) -> Result<(), HandsError> {
        self.spawn_builder(ns, id, config.to_owned(), environment, Some(told))
            .map_err(failed(format!("start the builder {id}")))
    }
    fn clear_environment(&self, environment: &str) -> Result<(), HandsError> {
        self.clear_environment(environment).map_err(failed(format!("clear the environment {environment}")))
    }
    fn kill(&self, id: &str) -> Result<(), HandsError> {
        self.kill(id).map_err(failed(format!("end the agent {id}")))
    }
    fn exited(&self) -> Result<Vec<String>, HandsError> {
        Ok(self.exited().map_err(failed("tell which agents ended"))?.into_iter().map(|e| e.id).collect())
    }
    fn verify(&self, plan: &moat_host::HostPlan) -> Result<Vec<String>, HandsError> {
        let seen = self.observe().map_err(failed("read the kernel's state"))?;
        let sentences = moat_host::verify(plan, &seen).into_iter().map(|m| {
            let side = |s: Option<String>| s.unwrap_or_else(|| "nothing".to_owned());
            format!("{}: {}: planned {}, there is {}", m.ns, m.what, side(m.planned), side(m.seen))
        });
        Ok(sentences.collect())
    }
}
