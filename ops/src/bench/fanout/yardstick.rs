//! The yardstick of `fanout`: a process that writes one ready frame to many sockets, and does nothing else.
//!
//! No plan, no log, no right to see, no WebSocket: only the system call that any server must make for a frame of a client
//! that it sends by itself. Each frame goes to each socket in one call, also in a burst: a server that sends several frames
//! with one call may be cheaper than this. All sockets are in one process and one thread, where a cluster has several; so the
//! same is asked of as many processes as there are nodes, which tells what of a node's price is only that it is not alone.
//! Frames are of the size of the nodes', not of their content. With several plans each frame goes to the sockets of one of
//! them, in turn. It runs as a process of its own, so that its cost is read as a node's is.

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::bench::clients::schedule::{Rhythm, Schedule};
use crate::bench::cluster::usage::Meter;

/// Until the yardstick has begun, and until it has ended after its last frame.
const PATIENCE: Duration = Duration::from_secs(20);

/// From the word to begin to the first frame.
const SETTLE: Duration = Duration::from_millis(200);

/// What a client is told first. Only then comes the next: a crowd that knocks at once could overflow the system's queue, and
/// who is dropped there is never told.
const READY: u8 = b'!';

/// What a process is told when all are there.
const BEGIN: u8 = b'>';

/// What the yardstick writes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct YardstickArgs {
    /// Sockets that each frame goes to.
    #[arg(long, value_name = "N")]
    pub(crate) sockets: u32,
    /// Groups of so many sockets, which get the frames in turn.
    #[arg(long, value_name = "N")]
    pub(crate) groups: u32,
    /// Bytes of a frame.
    #[arg(long, value_name = "N")]
    pub(crate) frame_bytes: u32,
    /// Frames per second, all groups together.
    #[arg(long, value_name = "N")]
    pub(crate) rate: u32,
    /// Frames that come in a row, 1 ms apart.
    #[arg(long, value_name = "N")]
    pub(crate) burst: u32,
    /// How long.
    #[arg(long, value_name = "S")]
    pub(crate) seconds: u32,
}

/// The process itself: says its port, waits for its clients and for the word, writes, and ends.
pub(crate) async fn run(args: &YardstickArgs) -> Result<ExitCode> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?.port())?;
    let all = args.sockets * args.groups;
    let mut sockets = Vec::with_capacity(all as usize);
    for _ in 0..all {
        let (mut socket, _) = timeout(PATIENCE, listener.accept()).await.context("a client is missing")??;
        socket.set_nodelay(true)?;
        socket.write_all(&[READY]).await?;
        let socket = socket.into_std()?;
        // The barest there is: no runtime between the loop and the system call.
        socket.set_nonblocking(false)?;
        sockets.push(socket);
    }
    let frame = vec![b'x'; args.frame_bytes as usize];
    let rhythm = Rhythm { rate: args.rate, burst: args.burst };
    std::io::stdin().read_exact(&mut [0])?;
    let schedule = Schedule { start: Instant::now() + SETTLE, rhythm };
    for number in 0..args.rate * args.seconds {
        sleep_until(schedule.at(number)).await;
        let first = (number % args.groups * args.sockets) as usize;
        for socket in &mut sockets[first..first + args.sockets as usize] {
            std::io::Write::write_all(socket, &frame)?;
        }
    }
    drop(sockets);
    // What it used can be read as long as it is there: until nobody holds the other end. Nothing else runs here.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(ExitCode::SUCCESS)
}

/// What a frame costs at the least.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Yardstick {
    /// Frames that clients read.
    pub(crate) deliveries: u64,
    /// Processor time of all its processes.
    pub(crate) cpu: Duration,
}

impl Yardstick {
    /// Processor seconds per million deliveries.
    pub(crate) fn price(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.deliveries as f64
    }

    /// Starts the processes, which share each frame's sockets, reads what they write and measures them.
    ///
    /// # Errors
    /// When one does not start, or its clients do not get all of it.
    pub(crate) async fn measure(task: &YardstickArgs, processes: u32) -> Result<Self> {
        let mut writers = Vec::new();
        let mut readers = JoinSet::new();
        for place in 0..processes {
            let sockets = (task.sockets + place) / processes;
            if sockets > 0 {
                writers.push(Writer::start(&YardstickArgs { sockets, ..*task }, &mut readers).await?);
            }
        }
        let pids: Vec<_> = writers.iter().map(|writer| ("yardstick".to_owned(), writer.pid)).collect();
        let mut meter = Meter::of_all(&pids);
        for writer in &mut writers {
            writer.begin().await?;
        }
        let mut bytes = 0;
        let reading = async {
            while let Some(read) = readers.join_next().await {
                bytes += read??;
            }
            anyhow::Ok(())
        };
        let patience = PATIENCE + Duration::from_secs(task.seconds.into());
        timeout(patience, reading).await.context("the yardstick goes on")??;
        let cpu = meter.read().iter().map(|cost| cost.cpu_seconds).sum();
        for writer in writers {
            writer.end().await?;
        }
        let frames = u64::from(task.rate) * u64::from(task.seconds) * u64::from(task.sockets);
        ensure!(bytes == frames * u64::from(task.frame_bytes), "the yardstick wrote {bytes} bytes");
        Ok(Self { deliveries: frames, cpu: Duration::from_secs_f64(cpu) })
    }
}

/// One process of the yardstick.
#[derive(Debug)]
struct Writer {
    process: Child,
    pid: u32,
    /// A byte begins it, the end ends it.
    input: ChildStdin,
}

impl Writer {
    async fn start(task: &YardstickArgs, readers: &mut JoinSet<Result<u64>>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "yardstick"]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        for (option, number) in [
            ("--sockets", task.sockets),
            ("--groups", task.groups),
            ("--frame-bytes", task.frame_bytes),
            ("--rate", task.rate),
            ("--burst", task.burst),
            ("--seconds", task.seconds),
        ] {
            command.args([option, &number.to_string()]);
        }
        let mut process = command.spawn().context("the yardstick does not start")?;
        let pid = process.id().context("a fresh process has a pid")?;
        let input = process.stdin.take().context("its input is ours")?;
        let mut lines = BufReader::new(process.stdout.take().context("its output is ours")?).lines();
        let port: u16 = timeout(PATIENCE, lines.next_line()).await??.context("the yardstick says no port")?.parse()?;
        for _ in 0..task.sockets * task.groups {
            let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            let ready = timeout(PATIENCE, socket.read_u8()).await.context("the yardstick takes nobody")??;
            ensure!(ready == READY, "somebody else is at the yardstick's port");
            readers.spawn(read_to_end(socket));
        }
        Ok(Self { process, pid, input })
    }

    async fn begin(&mut self) -> Result<()> {
        Ok(self.input.write_all(&[BEGIN]).await?)
    }

    async fn end(mut self) -> Result<()> {
        drop(self.input);
        timeout(PATIENCE, self.process.wait()).await.context("the yardstick does not end")??;
        Ok(())
    }
}

async fn read_to_end(mut socket: TcpStream) -> Result<u64> {
    let mut buffer = vec![0; 16 * 1024];
    let mut bytes = 0;
    loop {
        match socket.read(&mut buffer).await? {
            0 => return Ok(bytes),
            read => bytes += read as u64,
        }
    }
}
