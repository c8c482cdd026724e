//! A body that comes in pieces, as they are read.
//!
//! One channel for pieces and for the error that cuts them off. `http_body_util`'s channel has two, and ends early when
//! the sender is dropped between its looks at the one and at the other: then the last piece is lost.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

impl Pieces {
    /// A body, and where its pieces come from; at most one waits to be taken. Without an error the last piece is the
    /// one before the sender is dropped.
    pub(crate) fn new() -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (sender, pieces) = mpsc::channel(1);
        (sender, Self(pieces))
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http_body_util::BodyExt as _;

    /// A reader on one thread and a sender on another, so often that the sender is dropped at every moment.
    #[test]
    fn the_last_piece_is_never_lost() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            for _ in 0..20_000 {
                let (sender, body) = Pieces::new();
                let reader = tokio::spawn(body.collect());
                sender.send(Ok(Bytes::from_static(b"one "))).await.unwrap();
                sender.send(Ok(Bytes::from_static(b"two"))).await.unwrap();
                drop(sender);
                assert_eq!(reader.await.unwrap().unwrap().to_bytes(), "one two");
            }
        });
    }

    #[tokio::test]
    async fn an_error_cuts_it_off() {
        let (sender, mut body) = Pieces::new();
        sender.send(Ok(Bytes::from_static(b"one"))).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        sender.send(Err(io::ErrorKind::TimedOut.into())).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
