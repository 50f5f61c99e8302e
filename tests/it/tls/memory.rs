//! Memory that rustls holds for a connection, against `HELD_BYTES` in `server/src/session/tls.rs`.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, duplex},
    join, runtime,
};

use super::Authority;
use crate::tls::close_notify::raw_client;

/// As in `src/server/tls.rs`.
const HELD_BYTES: u64 = 128 * 1024;

// FAULTS S9
#[test]
fn rustls_memory_is_within_the_counted_bytes() {
    const CONNECTIONS: usize = 10;
    const PIPE: usize = 4 * 1024;
    let authority = Authority::new("root");
    let acceptor =
        tokio_rustls::TlsAcceptor::from(Arc::new(authority.issue(&["localhost"]).config()));
    let runtime = runtime::Builder::new_current_thread().build().unwrap();
    let stuck = || {
        runtime.block_on(async {
            let (ours, theirs) = duplex(PIPE);
            let (client, server) = join!(raw_client(&authority, ours), acceptor.accept(theirs));
            let (mut client, mut server) = (client, server.unwrap());
            // The server writes until nothing is taken any more, and the client likewise.
            poll_fn(|cx| {
                let piece = [b'x'; 16 * 1024];
                while Pin::new(&mut server).poll_write(cx, &piece).is_ready() {}
                Poll::Ready(())
            })
            .await;
            poll_fn(|cx| {
                let piece = [b'x'; 16 * 1024];
                for _ in 0..20 {
                    let _ = std::pin::pin!(client.write_all(&piece)).poll(cx);
                    let _ = Pin::new(&mut client).poll_flush(cx);
                    // It reads a little, so that it holds records that were not read.
                    let mut piece = [0; 100];
                    let _ = Pin::new(&mut server).poll_read(cx, &mut ReadBuf::new(&mut piece));
                }
                Poll::Ready(())
            })
            .await;
            // What the client's end of TLS holds is not the server's.
            (client.into_inner().0, server)
        })
    };
    drop(stuck());
    let mut held = Vec::with_capacity(CONNECTIONS);
    let counted = allocation_counter::measure(|| held.extend((0..CONNECTIONS).map(|_| stuck())));
    let each = counted.bytes_current as u64 / CONNECTIONS as u64 - 2 * PIPE as u64;
    assert!(each <= HELD_BYTES, "{each} bytes");
    assert!(each >= 64 * 1024, "{each} bytes: this was no full buffer");
}
