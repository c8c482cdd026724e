//! Connecting with a bound, for both ends of the management paths.
//!
//! The standard library's bounded connect makes its own socket; here sockets come from elsewhere
//! (made in another namespace, or bound to a service's address), and the local port has to be known
//! before the wait: a packet that is dropped has one too.

use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{self, SockaddrIn};

/// How long one connection attempt may take: the first packet and one more try of the kernel's.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_millis(1500);
/// How long the other end may take to speak once the connection stands.
pub const TALK_WAIT_MAX: Duration = Duration::from_secs(3);

/// Sends the first packet of a non-blocking TCP socket; returns the local port.
pub fn begin(socket: &OwnedFd, to: SocketAddrV4) -> io::Result<u16> {
    match socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(e) => return Err(e.into()),
    }
    Ok(socket::getsockname::<SockaddrIn>(socket.as_raw_fd())?.port())
}

/// Waits for the connection that [`begin`] asked for; a blocking stream with time-outs.
pub fn finish(socket: OwnedFd) -> io::Result<TcpStream> {
    let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let wait = PollTimeout::try_from(CONNECT_WAIT_MAX).unwrap_or(PollTimeout::MAX);
    if nix::poll::poll(&mut waiting, wait)? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
    }
    let error = socket::getsockopt(&socket, socket::sockopt::SocketError)?;
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TALK_WAIT_MAX))?;
    stream.set_write_timeout(Some(TALK_WAIT_MAX))?;
    Ok(stream)
}
