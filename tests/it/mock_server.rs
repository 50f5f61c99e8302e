//! A server that answers each request as a function says.

use std::{
    borrow::Cow,
    future::pending,
    io,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task::JoinSet,
};

use crate::peer::MockNetwork;

/// What the server does with a request.
pub(crate) enum Reply {
    Text(Cow<'static, str>),
    TextAndClose(&'static str),
    Close,
    /// Answers neither this request nor any behind it, and keeps the connection open.
    Silence,
}

pub(crate) const OK: Reply = text("ok\n\n");

pub(crate) const fn text(text: &'static str) -> Reply {
    Reply::Text(Cow::Borrowed(text))
}

/// The requests that arrived, in order, each with the number of its connection.
pub(crate) type RequestLog = Arc<Mutex<Vec<(usize, String)>>>;

/// Serves every connection of the network. `reply` is called with the number of the connection and the
/// request, without its line end.
pub(crate) async fn serve(
    network: &mut MockNetwork,
    reply: impl Fn(usize, &str) -> Reply + Clone + Send + 'static,
) {
    let mut connections = JoinSet::new();
    for connection in 0.. {
        let peer = network.accept().await;
        let reply = reply.clone();
        connections.spawn(serve_connection(peer.into_io(), move |line| reply(connection, line)));
    }
}

/// Serves in a task of its own, and returns the log of what arrives.
pub(crate) fn spawn(
    mut network: MockNetwork,
    reply: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
) -> RequestLog {
    let log = RequestLog::default();
    let (reply, requests) = (Arc::new(reply), Arc::clone(&log));
    tokio::spawn(async move {
        let reply = move |connection: usize, line: &str| {
            requests.lock().unwrap().push((connection, line.to_owned()));
            reply(connection, line)
        };
        serve(&mut network, reply).await;
    });
    log
}

/// Serves one connection to its end. Responses to requests that arrive together are one write.
pub(crate) async fn serve_connection(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    mut reply: impl FnMut(&str) -> Reply,
) -> io::Result<()> {
    let mut received = Vec::new();
    while io.read_buf(&mut received).await? > 0 {
        let whole = received.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let requests = received.drain(..whole).collect();
        let requests = String::from_utf8(requests).map_err(io::Error::other)?;
        let mut responses = String::new();
        let mut last = None;
        for request in requests.lines() {
            match reply(request) {
                Reply::Text(text) => responses += &text,
                end => {
                    last = Some(end);
                    break;
                }
            }
        }
        if let Some(Reply::TextAndClose(text)) = last {
            responses += text;
        }
        io.write_all(responses.as_bytes()).await?;
        match last {
            Some(Reply::Silence) => pending().await,
            Some(_) => return Ok(()),
            None => {}
        }
    }
    Ok(())
}
