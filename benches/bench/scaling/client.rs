//! A client in a process of its own, so that its memory can be measured.
//!
//! The bench program starts itself once more with a job, and the new process prints by how many
//! bytes it grew over that.

use std::{
    env,
    error::Error,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{self, Command, Stdio},
};

use tokio::task;

use super::connect;
use crate::support::{memory::Memory, workload::KEY};

/// What the client is to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job {
    /// Streams all that the server stores.
    Stream(SocketAddr),
    /// Has this number of callers wait for an answer that does not come.
    Wait(usize),
}

impl Job {
    /// By how many bytes a new process grows over this, at the worst moment.
    pub(super) fn measure(self) -> Result<u64, Box<dyn Error>> {
        let job = match self {
            Self::Stream(addr) => format!("stream {addr}"),
            Self::Wait(callers) => format!("wait {callers}"),
        };
        let mut client = Command::new(env::current_exe()?);
        let output = client.env(JOB, job).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("a client ended with {}", output.status).into());
        }
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    }

    fn parse(job: &str) -> Option<Self> {
        let (job, what) = job.split_once(' ')?;
        match job {
            "stream" => what.parse().ok().map(Self::Stream),
            "wait" => what.parse().ok().map(Self::Wait),
            _ => None,
        }
    }
}

/// Does the job that this process was started for, if it was, and says whether it was.
pub(crate) fn measure_if_asked() -> Result<bool, Box<dyn Error>> {
    let Ok(job) = env::var(JOB) else {
        return Ok(false);
    };
    let job = Job::parse(&job).ok_or("no such job")?;
    let growth = super::runtime()?.block_on(async {
        match job {
            Job::Stream(addr) => stream(addr).await,
            Job::Wait(callers) => wait(callers).await,
        }
    })?;
    println!("{growth}");
    Ok(true)
}

/// The environment variable that gives a bench program a job.
const JOB: &str = "METRICS_BENCH_JOB";

async fn stream(addr: SocketAddr) -> Result<u64, Box<dyn Error>> {
    let client = connect(addr).await?;
    let before = Memory::of(process::id())?;
    let mut samples = client.stream("*").await?;
    while let Some(sample) = samples.next().await {
        sample?;
    }
    Ok(Memory::of(process::id())?.peak - before.resident)
}

async fn wait(callers: usize) -> Result<u64, Box<dyn Error>> {
    // The kernel accepts the connection and buffers what is sent over it; it is never read.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = connect(listener.local_addr()?).await?;
    let before = Memory::of(process::id())?;
    for _ in 0..callers {
        let client = client.clone();
        task::spawn(async move { client.put(KEY, 23.7).await });
    }
    while client.stats().accepted < callers as u64 {
        task::yield_now().await;
    }
    Ok(Memory::of(process::id())?.peak - before.resident)
}
