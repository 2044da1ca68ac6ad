//! Bare hyper: what hyper, tokio and rustls cost where nothing is decided, checked, counted or recorded. One thread,
//! local tasks, and a list of idle connections to the worker.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version, client, header, server};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::floor::REFUSAL;

type Idle = Rc<RefCell<Vec<SendRequest<Incoming>>>>;
type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// Serves for ever; `refuses` everything, or passes it on.
pub(crate) fn run(listen: SocketAddr, worker: SocketAddr, tls: ServerConfig, refuses: bool) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind(listen).await?;
        let idle = Idle::default();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (acceptor, idle) = (acceptor.clone(), Rc::clone(&idle));
            tokio::task::spawn_local(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let answer = service_fn(move |request: Request<Incoming>| {
                    let idle = Rc::clone(&idle);
                    async move {
                        let refusal = Either::Right(Full::new(Bytes::from_static(REFUSAL)));
                        let answered = if refuses {
                            // A connection goes on only when the request has been read to its end.
                            let _ = request.into_body().collect().await;
                            let mut response = Response::new(refusal);
                            *response.status_mut() = StatusCode::UNAUTHORIZED;
                            response
                        } else {
                            forward(request, worker, &idle).await.unwrap_or_else(|_| {
                                let mut response = Response::new(refusal);
                                *response.status_mut() = StatusCode::BAD_GATEWAY;
                                response
                            })
                        };
                        Ok::<_, Infallible>(answered)
                    }
                });
                let mut connection = server::conn::http1::Builder::new();
                let _ = connection.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    })
}

async fn forward(
    request: Request<Incoming>,
    worker: SocketAddr,
    idle: &Idle,
) -> Result<Answer, Box<dyn std::error::Error>> {
    let kept = idle.borrow_mut().pop().filter(|sender| !sender.is_closed());
    let mut sender = if let Some(sender) = kept {
        sender
    } else {
        let stream = TcpStream::connect(worker).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        sender
    };
    sender.ready().await?;
    let (mut head, body) = request.into_parts();
    head.version = Version::HTTP_11;
    head.headers.remove(header::CONNECTION);
    let response = sender.send_request(Request::from_parts(head, body)).await?;
    idle.borrow_mut().push(sender);
    Ok(response.map(Either::Left))
}
