//! What all programs share: certificate, keys, tokens, the worker and Redis.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;

use ::aws_lc_rs::signature::KeyPair as _;
use harness::{Signer, TestCa, identity};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ServerConfig};
use serde_json::{Value, json};

use crate::jobs::{Credential, FLOWER, Job};
use crate::peers::{LOAD_CORE, Peer, Values, free_port, pinned};
use crate::session::Request;
use crate::worker::Worker;

/// The page that is allowed to call.
pub(crate) const ORIGIN: &str = "https://app.example.com";
const KEYS: usize = 1000;
const TOKENS: usize = 100;
const MANY_TOKENS: usize = 40_000;
/// More than the gateway remembers.
const FRESH_TOKENS: usize = 6_000;

pub(crate) struct World {
    pub(crate) dir: PathBuf,
    pub(crate) worker: Worker,
    pub(crate) nginx_modules: Option<PathBuf>,
    programs: Vec<(Peer, PathBuf)>,
    /// Consumer and key.
    keys: Vec<(String, String)>,
    signers: [Signer; 4],
    redis_port: u16,
    redis: Option<Child>,
}

impl World {
    /// Makes everything in a directory of the benchmark's own.
    pub(crate) fn make(dir: &Path) -> Self {
        let _ = fs::remove_dir_all(dir);
        let shared = dir.join("shared");
        fs::create_dir_all(&shared).expect("a directory");
        let ca = TestCa::shared();
        let signers = [Signer::hs256(identity::SECRET), Signer::rs256(), Signer::es256(), Signer::eddsa()];
        let [_, rs256, es256, eddsa] = &signers;
        for (name, content) in [
            ("server.pem", &ca.certificate),
            ("server.key", &ca.private_key),
            ("haproxy.pem", &(ca.certificate.clone() + &ca.private_key)),
            ("jwt.secret", &identity::SECRET.to_owned()),
            ("rs256.pem", &rs256.public()),
            ("es256.pem", &es256.public()),
            ("eddsa.pem", &eddsa.public()),
        ] {
            fs::write(shared.join(name), content).expect("a file can be written");
        }
        let own = std::env::current_exe().expect("this program has a path");
        let beside = |name: &str| own.with_file_name(name);
        let named = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let programs = vec![
            (Peer::Floor, own.clone()),
            (Peer::Bare, own.clone()),
            (Peer::Gateway, named("BENCH_GATEWAY").unwrap_or_else(|| beside("gateway"))),
            (Peer::Plain, beside("gateway")),
            (Peer::Haproxy, on_path("haproxy")),
            (Peer::Nginx, on_path("nginx")),
            (Peer::Envoy, named("BENCH_ENVOY").unwrap_or_else(|| "envoy".into())),
        ];
        let modules = PathBuf::from("/usr/lib/nginx/modules");
        let keys = (0..KEYS).map(|number| format!("team-{number:03}")).map(|id| (id.clone(), identity::key(&id)));
        Self {
            dir: dir.to_owned(),
            worker: Worker::start(),
            nginx_modules: modules.join("ngx_http_lua_module.so").exists().then_some(modules),
            programs,
            keys: keys.collect(),
            signers,
            redis_port: free_port(),
            redis: None,
        }
    }

    /// Where a program is.
    pub(crate) fn program(&self, peer: Peer) -> &Path {
        let found = self.programs.iter().find(|(known, _)| *known == peer);
        found.map(|(_, path)| path.as_path()).expect("every peer has a path")
    }

    /// Starts Redis, once.
    pub(crate) fn need_redis(&mut self) -> std::io::Result<()> {
        if self.redis.is_none() {
            let mut command = pinned(LOAD_CORE, Path::new("redis-server"));
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]).arg(&self.dir);
            command.args(["--port", &self.redis_port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
            self.redis = Some(command.spawn()?);
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        Ok(())
    }

    /// The values that all templates share.
    pub(crate) fn values(&self) -> Values {
        let mut values = Values::default();
        let gateway_keys = self.keys.iter().fold(String::new(), |mut all, (id, key)| {
            let digest = gateway::types::Sha256::of(key.as_bytes());
            let _ = writeln!(all, "[api_keys.{id}]\ndigest = \"{digest}\"\nowner = \"bench\"\nroles = [\"predictor\"]");
            all
        });
        let envoy_keys = self.keys.iter().fold(String::new(), |mut all, (id, key)| {
            let _ = writeln!(all, "              - {{ key: {key}, client: {id} }}");
            all
        });
        let modules = self.nginx_modules.as_deref().unwrap_or(Path::new("")).display().to_string();
        for (name, value) in [
            ("shared", self.dir.join("shared").display().to_string()),
            ("worker", self.worker.address.port().to_string()),
            ("redis_port", self.redis_port.to_string()),
            ("issuer", identity::ISSUER.to_owned()),
            ("audience", identity::AUDIENCE.to_owned()),
            ("secret", identity::SECRET.to_owned()),
            ("gateway_keys", gateway_keys),
            ("envoy_keys", envoy_keys),
            ("nginx_modules", modules),
        ] {
            values.texts.insert(name, value);
        }
        // What nginx's workers run as, who could not read the benchmark's directory otherwise.
        let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        values.features.extend(root.then_some("root"));
        values
    }

    /// Keys and consumers, one a line.
    pub(crate) fn key_map(&self, before: &str, between: &str, after: &str) -> String {
        self.keys.iter().fold(String::new(), |all, (id, key)| all + before + key + between + id + after + "\n")
    }

    fn signer(&self, features: &[&str]) -> &Signer {
        let [hs256, rs256, es256, eddsa] = &self.signers;
        if features.contains(&"rs256") {
            rs256
        } else if features.contains(&"es256") {
            es256
        } else if features.contains(&"eddsa") {
            eddsa
        } else {
            hs256
        }
    }

    /// The key that verifies a job's tokens, as a JWK Set.
    pub(crate) fn jwks(&self, features: &[&str]) -> String {
        let key = match self.signer(features) {
            Signer::Hs256(secret) => json!({ "kty": "oct", "alg": "HS256", "k": identity::base64url(secret) }),
            signer @ Signer::Es256(_) => {
                let mut key = signer.jwk("bench");
                // Tokens do not name their key.
                key.as_object_mut().map(|key| key.remove("kid"));
                key
            }
            Signer::EdDsa(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": identity::base64url(key.public_key().as_ref()) })
            }
            Signer::Rs256(key) => {
                // RSAPublicKey (RFC 8017 appendix A.1.1) ends with the modulus, and with 65537 in five octets.
                let public = key.public_key().as_ref();
                let end = public.len() - 5;
                let modulus = &public[end - key.public_modulus_len()..end];
                json!({ "kty": "RSA", "alg": "RS256", "n": identity::base64url(modulus), "e": "AQAB" })
            }
        };
        json!({ "keys": [key] }).to_string()
    }

    /// A good token with changes, for a job.
    pub(crate) fn token(&self, features: &[&str], changes: &Value) -> String {
        let mut long = json!({ "exp": identity::now() + 7200, "sub": "user-00" });
        identity::change(&mut long, changes);
        self.signer(features).token(&long)
    }

    /// What clients send for a job, in turn.
    pub(crate) fn requests(&self, job: &Job) -> Vec<Request> {
        match job.credential {
            Credential::Nothing => vec![request(job, None)],
            Credential::Key => {
                self.keys.iter().map(|(_, key)| request(job, Some(("x-api-key", key.clone())))).collect()
            }
            Credential::UnknownKey => vec![request(job, Some(("x-api-key", identity::key("stranger"))))],
            Credential::OneToken => vec![self.with_token(job, 0)],
            Credential::Token => (0..TOKENS).map(|number| self.with_token(job, number)).collect(),
            Credential::FreshTokens => (0..FRESH_TOKENS).map(|number| self.with_token(job, number)).collect(),
            Credential::ManyTokens => (0..MANY_TOKENS).map(|number| self.with_token(job, number)).collect(),
        }
    }

    fn with_token(&self, job: &Job, number: usize) -> Request {
        let token = self.token(job.features, &json!({ "sub": format!("user-{number:02}") }));
        request(job, Some(("authorization", format!("Bearer {token}"))))
    }

    /// The consumer that the first key belongs to.
    pub(crate) fn first_consumer(&self) -> &str {
        self.keys.first().map_or("", |(id, _)| id)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut redis) = self.redis.take() {
            let _ = redis.kill();
            let _ = redis.wait();
        }
    }
}

/// A prediction, with a credential.
pub(crate) fn request(job: &Job, credential: Option<(&'static str, String)>) -> Request {
    let mut fields = vec![("content-type", "application/json".to_owned())];
    if job.features.contains(&"cors") {
        fields.push(("origin", ORIGIN.to_owned()));
    }
    fields.extend(credential);
    let mut body = FLOWER.as_bytes().to_vec();
    body.resize(job.body.max(FLOWER.len()), b' ');
    Request { method: "POST", path: "/predict", fields, body }
}

fn on_path(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];
    places.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists()).unwrap_or_else(|| name.into())
}

/// TLS 1.3 with AES-128-GCM, so that every program seals the same way; X25519 unless a job asks for the hybrid.
fn provider(post_quantum: bool) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider.kx_groups =
        if post_quantum { vec![aws_lc_rs::kx_group::X25519MLKEM768] } else { vec![aws_lc_rs::kx_group::X25519] };
    Arc::new(provider)
}

/// What clients speak; each connection is a whole handshake.
pub(crate) fn client_tls(http2: bool, post_quantum: bool) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider(post_quantum));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("TLS 1.3");
    let mut config = builder.with_root_certificates(Arc::clone(&TestCa::shared().roots)).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Arc::new(config)
}

/// What the floor speaks, from the files that all programs share.
pub(crate) fn server_tls(shared: &Path) -> ServerConfig {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = CertificateDer::from_pem_file(shared.join("server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(shared.join("server.key")).expect("a key");
    let builder = ServerConfig::builder_with_provider(provider(false));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("TLS 1.3").with_no_client_auth();
    let mut config = builder.with_single_cert(vec![certificate], key).expect("they belong together");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}
