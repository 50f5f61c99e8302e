//! Watching on a terminal: draws the table, reads keys, asks the server.

use std::{
    cell::RefCell,
    io, thread,
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{self, Event};
use tokio::{
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval},
};

use super::{
    WatchArgs,
    app::{App, Leave},
    draw::{self, Look},
    poll::Poller,
};
use crate::{
    failure::Failure,
    screen::{self, Screen},
    selection::Selection,
    signals::{self, Continued},
    times,
};

/// Shows the table until it is left or a signal comes.
pub(super) async fn run(args: &WatchArgs, selection: &Selection) -> Result<(), Failure> {
    let stop = signals::stop()?;
    tokio::pin!(stop);
    // The error for a server that is away must not be on a screen that is then cleared.
    let client = tokio::select! {
        signal = &mut stop => return Err(Failure::interrupted(signal)),
        client = args.server.connect() => client?,
    };
    let app =
        RefCell::new(App::new(args.patterns.join(" "), args.server.server.clone(), args.sort));
    let changed = Notify::new();
    let mut poller = Poller::new(client, &args.server, selection, args.interval);
    let mut screen = Screen::open()?;
    let mut events = read_events()?;
    let mut continued = Continued::new()?;
    let polling = async {
        let Err(failure) = poll(&mut poller, &app, &changed).await;
        failure
    };
    tokio::pin!(polling);
    // Ages grow.
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let is_coloured = screen::has_colours();
    loop {
        let look = Look { now: Instant::now(), second: times::now(), is_coloured };
        screen.draw(|frame| {
            draw::draw(&mut app.borrow_mut(), frame.area(), frame.buffer_mut(), look);
        })?;
        tokio::select! {
            biased;
            signal = &mut stop => return Err(Failure::interrupted(signal)),
            event = events.recv() => {
                let event = event.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?;
                // Of another event, a new size, the next drawing sees the effect.
                if let Event::Key(key) = event {
                    match app.borrow_mut().press(key) {
                        Some(Leave::Quit) => return Ok(()),
                        Some(Leave::Interrupt) => return Err(Failure::interrupted(signals::INTERRUPT)),
                        #[cfg(unix)]
                        Some(Leave::Suspend) => screen.suspend()?,
                        _ => {}
                    }
                }
            }
            // Stopped by another process, and continued.
            () = continued.next() => screen.resume()?,
            () = changed.notified() => {}
            _ = ticks.tick() => {}
            failure = &mut polling => return Err(failure),
        }
    }
}

/// Asks the server again and again. Returns the first failure of a server that has never answered.
async fn poll(
    poller: &mut Poller<'_>,
    app: &RefCell<App>,
    changed: &Notify,
) -> Result<std::convert::Infallible, Failure> {
    let mut has_read = false;
    loop {
        let read = poller.read(|sample| app.borrow_mut().push(sample)).await;
        match read {
            Ok(read) => {
                has_read = true;
                app.borrow_mut().read(Instant::now(), read);
            }
            Err(failure) if !has_read => return Err(failure),
            Err(failure) => app.borrow_mut().away(Instant::now(), failure.to_string()),
        }
        changed.notify_one();
    }
}

/// Reads keys and changes of size in a thread, which ends with the process.
fn read_events() -> io::Result<mpsc::Receiver<io::Result<Event>>> {
    let (sender, events) = mpsc::channel(64);
    let read = move || {
        loop {
            let event = event::read();
            let is_error = event.is_err();
            if sender.blocking_send(event).is_err() || is_error {
                return;
            }
        }
    };
    thread::Builder::new().name("keys".into()).spawn(read)?;
    Ok(events)
}
