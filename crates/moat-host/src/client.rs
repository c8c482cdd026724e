//! Asking the helper, from any thread of the server.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use crate::protocol::{self, Answer, Exit, Request};
use crate::{NsName, Observed, SocketSpec, Step};

/// Requests to the helper, one at a time. Cloning gives another handle to the same helper. Calls block: a runtime
/// calls them from a blocking thread.
#[derive(Debug, Clone)]
pub struct HostClient(Arc<Mutex<UnixStream>>);

/// Why a request to the helper came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The helper could not do it.
    #[error("the helper could not: {why}")]
    Refused {
        /// Its words.
        why: String,
    },
    /// The helper is gone; the world is ending.
    #[error("the helper does not answer")]
    Gone(#[source] io::Error),
    /// It answered something else.
    #[error("the helper answered out of turn")]
    Confused,
}

impl HostClient {
    /// Over a connected socket.
    pub fn new(stream: UnixStream) -> Self {
        HostClient(Arc::new(Mutex::new(stream)))
    }

    /// Executes steps in order, up to the first that fails.
    pub fn apply(&self, steps: Vec<Step>) -> Result<(), HostError> {
        self.done(&Request::Apply { steps })
    }
    /// A socket made in a namespace.
    pub fn socket(&self, ns: &NsName, spec: SocketSpec) -> Result<OwnedFd, HostError> {
        self.descriptor(&Request::Socket { ns: ns.clone(), spec })
    }
    /// A netlink socket that receives a group of the firewall log of a namespace.
    pub fn nflog(&self, ns: &NsName, group: u16) -> Result<OwnedFd, HostError> {
        self.descriptor(&Request::Nflog { ns: ns.clone(), group })
    }
    /// Starts an agent in a namespace; `log` takes its output.
    pub fn spawn(&self, ns: &NsName, id: &str, config: String, log: Option<BorrowedFd<'_>>) -> Result<(), HostError> {
        let request = Request::Spawn { ns: ns.clone(), id: id.to_owned(), config, build: None };
        self.call(&request, log).and_then(|got| done(&got.0))
    }
    /// Starts an agent that may write the folder `environment` below the server's `environments/`, which must be
    /// there and open to every user.
    pub fn spawn_builder(
        &self,
        ns: &NsName,
        id: &str,
        config: String,
        environment: &str,
        log: Option<BorrowedFd<'_>>,
    ) -> Result<(), HostError> {
        let build = Some(environment.to_owned());
        let request = Request::Spawn { ns: ns.clone(), id: id.to_owned(), config, build };
        self.call(&request, log).and_then(|got| done(&got.0))
    }
    /// Removes what lies in the folder of an environment; the folder stays.
    pub fn clear_environment(&self, environment: &str) -> Result<(), HostError> {
        self.done(&Request::ClearEnvironment { environment: environment.to_owned() })
    }
    /// Ends an agent.
    pub fn kill(&self, id: &str) -> Result<(), HostError> {
        self.done(&Request::Kill { id: id.to_owned() })
    }
    /// Which agents ended by themselves since the last call.
    pub fn exited(&self) -> Result<Vec<Exit>, HostError> {
        match self.call(&Request::Exited, None)?.0 {
            Answer::Exited(exits) => Ok(exits),
            _ => Err(HostError::Confused),
        }
    }
    /// What the kernel has.
    pub fn observe(&self) -> Result<Observed, HostError> {
        match self.call(&Request::Observe, None)?.0 {
            Answer::Observed(seen) => Ok(*seen),
            _ => Err(HostError::Confused),
        }
    }
    /// Removes every namespace and ends every agent.
    pub fn reset(&self) -> Result<(), HostError> {
        self.done(&Request::Reset)
    }

    fn done(&self, request: &Request) -> Result<(), HostError> {
        self.call(request, None).and_then(|got| done(&got.0))
    }
    fn descriptor(&self, request: &Request) -> Result<OwnedFd, HostError> {
        self.call(request, None)?.1.into_iter().next().ok_or(HostError::Confused)
    }
    fn call(&self, request: &Request, fd: Option<BorrowedFd<'_>>) -> Result<(Answer, Vec<OwnedFd>), HostError> {
        // A panic of another thread may have left half a frame, but then the next read fails and says so.
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
        protocol::send(&stream, request, &fds).map_err(HostError::Gone)?;
        let got = protocol::receive(&stream).map_err(HostError::Gone)?;
        match got.ok_or_else(|| HostError::Gone(io::ErrorKind::UnexpectedEof.into()))? {
            (Answer::Refused { why }, _) => Err(HostError::Refused { why }),
            other => Ok(other),
        }
    }
}

fn done(answer: &Answer) -> Result<(), HostError> {
    match answer {
        Answer::Done => Ok(()),
        _ => Err(HostError::Confused),
    }
}
