//! Other proxies, each configured as a plain TLS reverse proxy in front of the recorder.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::{Process, TestCa, eventually};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// How long a peer may be silent before a connection counts as left open.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// A proxy that is known here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    Haproxy,
    Envoy,
    Nginx,
}

impl Peer {
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Haproxy, Self::Envoy, Self::Nginx].into_iter().find(|peer| peer.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
        }
    }

    /// Starts it in a directory of its own, and waits until it takes connections.
    pub(crate) async fn start(self, worker: SocketAddr) -> Running {
        let directory = tempfile::tempdir().expect("a directory");
        let address = free_address();
        let ca = TestCa::shared();
        let file = |name: &str, content: &str| {
            std::fs::write(directory.path().join(name), content).expect("a temporary directory can be written to");
        };
        file("server.pem", &ca.certificate);
        file("server.key", &ca.private_key);
        file("both.pem", &(ca.certificate.clone() + &ca.private_key));
        let (config, mut command) = match self {
            Self::Haproxy => (haproxy(address, worker), Command::new("haproxy")),
            Self::Envoy => (envoy(address, worker), Command::new(std::env::var_os("ENVOY").unwrap_or("envoy".into()))),
            Self::Nginx => (nginx(address, worker, directory.path()), Command::new("nginx")),
        };
        file("config", &config);
        command.current_dir(directory.path());
        match self {
            Self::Haproxy => command.args(["-db", "-f", "config"]),
            Self::Envoy => {
                command.args(["-c", "config.json", "--concurrency", "1", "-l", "error", "--disable-hot-restart"])
            }
            Self::Nginx => command.arg("-p").arg(directory.path()).args(["-c", "config"]),
        };
        if matches!(self, Self::Envoy) {
            file("config.json", &config);
        }
        let process = Process::start(&mut command);
        let what = format!("{} takes connections at {address}", self.name());
        eventually(&what, async || TcpStream::connect(address).await.ok()).await;
        Running { process, address, _directory: directory }
    }
}

/// A peer that runs.
#[derive(Debug)]
pub(crate) struct Running {
    process: Process,
    address: SocketAddr,
    _directory: TempDir,
}

impl Running {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, in a way that its own children notice.
    pub(crate) fn stop(&mut self) {
        self.process.signal("TERM");
    }
}

/// An address that was free a moment ago: these programs do not tell which one they got for port 0.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    listener.local_addr().expect("a listener has an address")
}

fn haproxy(address: SocketAddr, worker: SocketAddr) -> String {
    format!(
        "global\n  maxconn 1000\n  nbthread 1\n\
         defaults\n  mode http\n  timeout connect 3s\n  timeout client 5s\n  timeout server 5s\n  timeout http-request 2s\n\
         frontend clients\n  bind {address} ssl crt both.pem alpn http/1.1\n  default_backend workers\n\
         backend workers\n  server worker {worker}\n"
    )
}

fn nginx(address: SocketAddr, worker: SocketAddr, directory: &Path) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("  {name}_temp_path {}/{name};\n", directory.display()));
    format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr crit;\nevents {{}}\nhttp {{\n  access_log off;\n{}\
         \x20 upstream workers {{ server {worker}; keepalive 16; }}\n\
         \x20 server {{\n    listen {address} ssl;\n    ssl_certificate server.pem;\n    ssl_certificate_key server.key;\n\
         \x20   client_header_timeout 2s;\n    client_body_timeout 2s;\n    location / {{\n      proxy_pass http://workers;\n\
         \x20     proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      proxy_set_header Host $http_host;\n\
         \x20     proxy_request_buffering off;\n    }}\n  }}\n}}\n",
        temporary.concat()
    )
}

fn envoy(address: SocketAddr, worker: SocketAddr) -> String {
    let socket = |address: SocketAddr| serde_json::json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let routes = serde_json::json!({ "virtual_hosts": [{
        "name": "all", "domains": ["*"], "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "workers" } }],
    }] });
    let manager = serde_json::json!({
        "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "clients",
        "codec_type": "HTTP1",
        "stream_idle_timeout": "2s",
        "request_headers_timeout": "2s",
        "route_config": routes,
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": kind("filters.http.router.v3.Router") },
        }],
    });
    let tls = serde_json::json!({
        "@type": kind("transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": {
            "alpn_protocols": ["http/1.1"],
            "tls_certificates": [{
                "certificate_chain": { "filename": "server.pem" }, "private_key": { "filename": "server.key" },
            }],
        },
    });
    let endpoints = serde_json::json!({
        "cluster_name": "workers",
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(worker) } }] }],
    });
    let listener = serde_json::json!({
        "name": "clients",
        "address": socket(address),
        "filter_chains": [{
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
            "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }],
        }],
    });
    let cluster = serde_json::json!({
        "name": "workers", "type": "STATIC", "connect_timeout": "3s", "load_assignment": endpoints,
    });
    serde_json::json!({ "static_resources": { "listeners": [listener], "clusters": [cluster] } }).to_string()
}
