//! Injects faults of the network and the hosts, and heals them.

use std::{fmt::Display, time::Duration};

use turmoil::{LinkIter, Sim};

use super::network::{Conditions, SERVERS, SimNetwork};

/// Faults of one simulation: each kind that it has comes again and again, and passes.
#[derive(Debug)]
pub(super) struct FaultInjector {
    world: SimNetwork,
    clients: Vec<String>,
    kinds: Vec<Fault>,
    /// How long faults last at most.
    longest: Duration,
    /// How long it stays as it is between two of them at most.
    pause: Duration,
    next: Duration,
    /// What passes, and when.
    passing: Vec<(Healing, Duration)>,
    /// When all is over.
    until: Duration,
    is_over: bool,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A client and a server lose all that is on its way between them and that they send.
    Partition,
    /// The same, in one direction: to the server, or back.
    LossThere,
    LossBack,
    /// What is on its way stays there, and comes when this is over.
    Hold,
    /// A server's process ends, and comes again.
    Crash,
    /// A server's host is gone without a word, and comes again.
    PowerLoss,
    /// A server's process ends, and there is another at once.
    Restart,
    /// Some messages are lost at random.
    RandomLoss,
    /// Messages take long, each as long as it will.
    Latency,
    /// The name leads to another server.
    Move,
    NameUnknown,
    NameSlow,
    StoreSlow,
    StoreFails,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Healing {
    Link { client: usize, server: usize },
    Server(usize),
    Loss,
    Latency,
    Name,
    Resolving,
    Storing,
    Failing,
}

const ALL: [Fault; 14] = [
    Fault::Partition,
    Fault::LossThere,
    Fault::LossBack,
    Fault::Hold,
    Fault::Crash,
    Fault::PowerLoss,
    Fault::Restart,
    Fault::RandomLoss,
    Fault::Latency,
    Fault::Move,
    Fault::NameUnknown,
    Fault::NameSlow,
    Fault::StoreSlow,
    Fault::StoreFails,
];

/// How long a message takes at most while nothing is wrong.
pub(super) const LATENCY: Duration = Duration::from_millis(4);

impl FaultInjector {
    /// Some kinds of faults, not all: where everything goes wrong, little comes far.
    pub(super) fn new(world: SimNetwork, clients: Vec<String>, until: Duration) -> Self {
        let count = fastrand::usize(1..=5);
        let millis = |range| Duration::from_millis(fastrand::u64(range));
        Self {
            world,
            clients,
            kinds: fastrand::choose_multiple(ALL, count),
            longest: millis(50..1500),
            pause: millis(10..600),
            next: Duration::ZERO,
            passing: Vec::new(),
            until,
            is_over: false,
        }
    }

    pub(super) fn kinds(&self) -> String {
        format!("{:?}", self.kinds)
    }

    /// Does what is due now.
    pub(super) fn pass(&mut self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        self.world.history.lock().unwrap().now = now;
        if self.is_over {
            return;
        }
        if now >= self.until {
            self.end(sim);
            return;
        }
        let passed = self.passing.extract_if(.., |(_, at)| *at <= now).collect::<Vec<_>>();
        for (heal, _) in passed {
            self.heal(sim, heal);
        }
        if now >= self.next {
            self.next = now + self.pause.mul_f64(fastrand::f64());
            let fault = self.kinds[fastrand::usize(..self.kinds.len())];
            let until = now + self.longest.mul_f64(fastrand::f64());
            self.inject(sim, fault, until);
        }
    }

    fn inject(&mut self, sim: &mut Sim<'_>, fault: Fault, until: Duration) {
        let (client, server) =
            (fastrand::usize(..self.clients.len()), fastrand::usize(..SERVERS.len()));
        let heal = match fault {
            Fault::Partition | Fault::LossThere | Fault::LossBack | Fault::Hold => {
                Healing::Link { client, server }
            }
            Fault::Crash | Fault::PowerLoss | Fault::Restart => Healing::Server(server),
            Fault::RandomLoss => Healing::Loss,
            Fault::Latency => Healing::Latency,
            Fault::Move | Fault::NameUnknown => Healing::Name,
            Fault::NameSlow => Healing::Resolving,
            Fault::StoreSlow => Healing::Storing,
            Fault::StoreFails => Healing::Failing,
        };
        // One at a time: turmoil's faults of one link do not mix.
        if self.passing.iter().any(|(passing, _)| *passing == heal) {
            return;
        }
        self.note(format_args!("{fault:?}: {heal:?}"));
        self.passing.push((heal, until));
        let (peer, host) = (&*self.clients[client], SERVERS[server]);
        match fault {
            Fault::Partition => sim.partition(peer, host),
            Fault::LossThere => sim.partition_oneway(peer, host),
            Fault::LossBack => sim.partition_oneway(host, peer),
            Fault::Hold => sim.hold(peer, host),
            Fault::Crash => sim.crash(host),
            Fault::PowerLoss => {
                // No peer notices: what the host's end would send is lost.
                for peer in &self.clients {
                    sim.partition(&**peer, host);
                }
                sim.crash(host);
                for peer in &self.clients {
                    sim.release(&**peer, host);
                }
            }
            Fault::Restart => sim.bounce(host),
            Fault::RandomLoss => sim.set_fail_rate(0.2 * fastrand::f64()),
            Fault::Latency => {
                sim.set_max_message_latency(Duration::from_millis(fastrand::u64(10..3000)));
            }
            Fault::Move => self
                .change(|now| now.server = now.server.map(|server| (server + 1) % SERVERS.len())),
            Fault::NameUnknown => self.change(|now| now.server = None),
            Fault::NameSlow => {
                let resolving = Duration::from_millis(fastrand::u64(..1000));
                self.change(|now| now.resolving = resolving);
            }
            Fault::StoreSlow => {
                let storing = Duration::from_millis(fastrand::u64(..500));
                self.change(|now| now.storing = storing);
            }
            Fault::StoreFails => {
                let failing = fastrand::u32(..=100);
                self.change(|now| now.failing = failing);
            }
        }
    }

    fn heal(&mut self, sim: &mut Sim<'_>, heal: Healing) {
        self.note(format_args!("over: {heal:?}"));
        match heal {
            Healing::Link { client, server } => {
                sim.release(&*self.clients[client], SERVERS[server]);
            }
            Healing::Server(server) => {
                if !sim.is_host_running(SERVERS[server]) {
                    sim.bounce(SERVERS[server]);
                }
            }
            Healing::Loss => sim.set_fail_rate(0.0),
            Healing::Latency => sim.set_max_message_latency(LATENCY),
            Healing::Name => {
                let server = fastrand::usize(..SERVERS.len());
                self.change(|now| now.server = Some(server));
            }
            Healing::Resolving => self.change(|now| now.resolving = Duration::ZERO),
            Healing::Storing => self.change(|now| now.storing = Duration::ZERO),
            Healing::Failing => self.change(|now| now.failing = 0),
        }
    }

    /// All is well again, but that all servers may be gone for good except the one to which the name leads.
    /// What the faults have delayed arrives now: as long as it comes, a connection has not stalled.
    fn end(&mut self, sim: &mut Sim<'_>) {
        self.is_over = true;
        sim.set_fail_rate(0.0);
        sim.set_max_message_latency(LATENCY);
        let server = fastrand::usize(..SERVERS.len());
        self.change(|now| *now = Conditions { server: Some(server), ..Conditions::FINE });
        let others_are_gone = fastrand::bool();
        for (at, host) in SERVERS.into_iter().enumerate() {
            for peer in &self.clients {
                sim.release(&**peer, host);
                if at != server && others_are_gone {
                    sim.partition(&**peer, host);
                }
            }
            if !sim.is_host_running(host) {
                sim.bounce(host);
            }
        }
        sim.links(|links| links.for_each(LinkIter::deliver_all));
        let gone = if others_are_gone { "the others are gone" } else { "the others are well too" };
        self.note(format_args!("all faults are over: the name leads to {server}, {gone}"));
    }

    fn change(&self, change: impl FnOnce(&mut Conditions)) {
        change(&mut self.world.conditions.lock().unwrap());
    }

    fn note(&self, event: impl Display) {
        self.world.history.lock().unwrap().note(event);
    }
}
