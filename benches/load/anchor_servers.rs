//! The servers of anchors A1, A2, A4 and A7: the least that a server can do, with the same HTTP library and threads.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use crossbeam::channel;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// What the server does with a body before it answers `OK`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Append each body to this file and flush it before the answer (A4)
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// Send each body on by POST to this address and wait for its answer (A7)
    #[arg(long)]
    pub forward: Option<SocketAddr>,
}

/// Connections that may wait to be accepted, as many as at the gateway: one that is turned away tries again after a
/// second.
const BACKLOG: u32 = 4_096;

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

enum Work {
    Answer,
    Log(channel::Sender<(Bytes, oneshot::Sender<()>)>),
    Forward(SocketAddr, Mutex<Vec<Sender>>),
}

/// Listens, prints `listening ADDRESS`, serves until the process ends.
pub fn run(options: &Options) -> Result<()> {
    let work = match (&options.log, options.forward) {
        (Some(log), _) => Work::Log(start_log(log)?),
        (_, Some(sink)) => Work::Forward(sink, Mutex::new(Vec::new())),
        _ => Work::Answer,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(Arc::new(work)))
}

async fn serve(work: Arc<Work>) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let listener = socket.listen(BACKLOG)?;
    println!("listening {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let _slower_but_right = stream.set_nodelay(true);
        let work = Arc::clone(&work);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&work, request));
            // The generator drops its connections at the end.
            let _ended =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(work: &Work, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let done = match request.into_body().collect().await {
        Ok(body) => work.perform(body.to_bytes()).await,
        Err(error) => Err(error.into()),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(b"OK")));
    if let Err(error) = done {
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        *response.body_mut() = Full::new(Bytes::from(error.to_string()));
    }
    Ok(response)
}

impl Work {
    async fn perform(&self, body: Bytes) -> Result<()> {
        match self {
            Work::Answer => Ok(()),
            Work::Log(log) => {
                let (flushed, wait) = oneshot::channel();
                log.send((body, flushed))?;
                Ok(wait.await?)
            }
            Work::Forward(sink, pool) => {
                let pooled = pool.lock().pop();
                let mut sender = match pooled {
                    Some(sender) => sender,
                    None => connect(*sink).await?,
                };
                let request = Request::post("/d0").header("host", "localhost").body(Full::new(body))?;
                let response = sender.send_request(request).await?;
                response.into_body().collect().await?;
                sender.ready().await?;
                pool.lock().push(sender);
                Ok(())
            }
        }
    }
}

async fn connect(sink: SocketAddr) -> Result<Sender> {
    let stream = TcpStream::connect(sink).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// The thread of the group commit: writes what is waiting, flushes once, wakes everybody.
fn start_log(path: &Path) -> Result<channel::Sender<(Bytes, oneshot::Sender<()>)>> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let (sender, receiver) = channel::bounded::<(Bytes, oneshot::Sender<()>)>(8_192);
    std::thread::spawn(move || {
        let mut group = Vec::new();
        let mut bytes = Vec::new();
        while let Ok(first) = receiver.recv() {
            group.push(first);
            group.extend(receiver.try_iter().take(2_048));
            bytes.clear();
            for (body, _) in &group {
                bytes.extend_from_slice(body);
            }
            if file.write_all(&bytes).and_then(|()| file.sync_data()).is_err() {
                // The waiters see their channels closed and answer 502.
                return;
            }
            for (_, flushed) in group.drain(..) {
                let _gone_is_fine = flushed.send(());
            }
        }
    });
    Ok(sender)
}
