//! What must hold for a client whatever its servers send, however its connections end, and whatever
//! its callers do; one of the checks that the fuzz targets run, as `codec.rs` has them.
//!
//! An input is a script, in text. Its first line has the settings of the client, its second what the
//! callers do, and each further line what becomes of one connection, in the order in which they are
//! dialled: a word of cuts for both directions, as in the other inputs, a blank, and what the server does.
//! When the lines are used up, servers are prompt. A letter without a meaning is passed over, and so is what callers would do beyond their 64th.
//!
//! ```text
//! o2s              pipelining on, two in flight, a short stall timeout
//! ppg5C            two puts, a get, half a second, close
//! 13 aw'ok/'z      pieces of one and three bytes; answer once, wait, say "ok", hang up
//! ```
//!
//! | client | setting | callers | do | server | does |
//! |---|---|---|---|---|---|
//! | `o` `f` | pipelining on, off (else auto) | `p` `P` | put at a second, put now | `a` `e` `m` | answers the next request: as it should, with an error, with a malformed record |
//! | digit | that many in flight | `g` `G` | get one key, get all | `*` | is prompt from now on |
//! | `q` | to fail when the queue is full | `b` `B` | put 3 samples, 40 samples | `'...'` | sends these bytes, `/` standing for a line break |
//! | `b` | to queue 64 bytes | `s` `S` | stream to the end, open a stream and wait | `w` `W` | waits 30 milliseconds, 2 seconds |
//! | `r` | not to retry | `h` `H` | begin a put: drop it, move it to another task | `k` `K` | takes no more bytes, takes them again |
//! | `n` | not to reconnect | `i` | call with an invalid key, an invalid number | `x` | has the client's writing fail |
//! | `t` `T` | a request timeout of 100 ms, of nothing | `d` `D` | drop the oldest, the newest call | `z` `!` | closes, resets |
//! | `s` | a stall timeout of 50 ms | `c` `x` | clone a handle, drop one | `.` | is not ready for a moment |
//! | `m` | that answers have 24 bytes | `C` | close | `r` `R` `d` | first of all: refuses, is never heard of, accepts late |
//! | `c` `g` | to connect, to take a stream (else lazy) | `.` | let the others run | | |
//! | | | digit | wait this number of tenths of a second | | |
//! | | | `X` | end the runtime | | |

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use metrics_client::{
    MetricsClient,
    client::{Pipelining, ReconnectPolicy, WhenFull, connector_fn},
};
use tokio::{runtime, time};

use self::{callers::Callers, mock_server::ScriptedIo, state::SharedState};

mod callers;
mod checks;
mod mock_server;
mod state;
mod transcript;

/// Every call has one outcome, by its deadline, and it is the one that its own answer says; what goes
/// over a connection are whole requests, in order, within the window; and the client ends.
pub(crate) fn client_driver(input: &[u8]) {
    let mut lines = input.split(|&byte| byte == b'\n');
    let rules = Rules::of(lines.next().unwrap_or_default());
    let script = lines.next().unwrap_or_default();
    let world = SharedState::new(rules, lines.map(<[u8]>::to_vec));
    // The jitter between two dials.
    fastrand::seed(0);
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without sockets needs nothing");
    let left = runtime.block_on(async {
        let Some(client) = begin(rules, &world).await else { return Vec::new() };
        Callers::new(world.clone(), client).play(script).await
    });
    drop(runtime);
    world.lock().is_content();
    for mut call in left {
        let end = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(end.is_ready(), "a call waits for a client whose runtime is gone");
    }
}

/// The settings of the client.
#[derive(Clone, Copy, Debug)]
struct Rules {
    pipelining: Pipelining,
    max_in_flight: usize,
    max_buffered_bytes: usize,
    max_response_bytes: usize,
    overflow: WhenFull,
    retry: bool,
    reconnect: bool,
    request_timeout: Duration,
    stall_timeout: Duration,
    start: Start,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    Lazy,
    Connect,
    Given,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the shutdown of a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The shortest request timeout that a client takes.
const SHORTEST: Duration = Duration::from_millis(1);

/// How far the runtime's timers are from exact, and several of them together.
const SLACK: Duration = Duration::from_millis(10);

impl Rules {
    fn of(line: &[u8]) -> Self {
        let mut rules = Self {
            pipelining: Pipelining::Auto,
            max_in_flight: 4096,
            max_buffered_bytes: 1024 * 1024,
            max_response_bytes: 64 * 1024 * 1024,
            overflow: WhenFull::Wait,
            retry: true,
            reconnect: true,
            request_timeout: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(2),
            start: Start::Lazy,
        };
        for byte in line {
            match byte {
                b'o' => rules.pipelining = Pipelining::On,
                b'f' => rules.pipelining = Pipelining::Off,
                b'0'..=b'9' => rules.max_in_flight = usize::from(byte - b'0').max(1),
                b'q' => rules.overflow = WhenFull::Fail,
                b'b' => rules.max_buffered_bytes = 64,
                b'r' => rules.retry = false,
                b'n' => rules.reconnect = false,
                b't' => rules.request_timeout = Duration::from_millis(100),
                b'T' => rules.request_timeout = SHORTEST,
                b's' => rules.stall_timeout = Duration::from_millis(200),
                b'm' => rules.max_response_bytes = 24,
                b'c' => rules.start = Start::Connect,
                b'g' => rules.start = Start::Given,
                _ => {}
            }
        }
        rules
    }

    /// Whether the client may close by itself.
    fn may_give_up(&self) -> bool {
        !self.reconnect || self.start == Start::Given
    }
}

/// The client that plays, unless it finds no server.
async fn begin(rules: Rules, world: &SharedState) -> Option<MetricsClient> {
    let dialled = world.clone();
    let (min, max) = (Duration::from_millis(10), Duration::from_millis(100));
    let builder = MetricsClient::builder("a script")
        .connector(connector_fn(move |_| ScriptedIo::dial(dialled.clone())))
        .connect_timeout(CONNECT_TIMEOUT)
        .request_timeout(rules.request_timeout)
        .stall_timeout(rules.stall_timeout)
        .pipelining(rules.pipelining)
        .max_in_flight(rules.max_in_flight)
        .max_buffered_bytes(rules.max_buffered_bytes)
        .max_response_bytes(rules.max_response_bytes)
        .when_full(rules.overflow)
        .resend_unacknowledged(rules.retry)
        .reconnect(if rules.reconnect {
            ReconnectPolicy::backoff(min, max)
        } else {
            ReconnectPolicy::never()
        });
    match rules.start {
        Start::Lazy => Some(builder.connect_lazy().unwrap()),
        Start::Given => Some(builder.with_io(ScriptedIo::accepted(world.clone()))),
        Start::Connect => {
            let connecting = time::timeout(CONNECT_TIMEOUT + SLACK, builder.connect()).await;
            let connected = connecting.expect("connecting must end by its deadline");
            world.lock().is_content();
            connected.ok()
        }
    }
}

/// A call that is not driven by a task.
type Held = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Polls once, as a task would that is never woken.
fn begun(call: &mut Held) -> Poll<()> {
    call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}
