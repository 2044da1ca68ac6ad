//! The gateway's order, enforced: which room may use which, and what each must never name.
//!
//! The order of the rooms is read from the table in `gateway/src/lib.rs`, so that the table is true. Paths
//! that begin with `crate` or `super` are found in the source with comments and tests taken away.
#![expect(clippy::expect_used, reason = "a source tree that can't be read fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a file inside `policy` or `edge` may use there beside the shared parts, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "edge::upstream",
        "edge::tls",
        "workers are reached over TLS with the one provider, and authorities are read alike",
    ),
    ("edge::counter", "edge::tls", "and so is Redis"),
    ("edge::fetch", "edge::tls", "others are asked over TLS with the one provider of cryptography"),
    ("edge::keys", "edge::fetch", "keys are fetched as everything is"),
    ("edge::introspection", "edge::fetch", "and so is what issuers say of tokens"),
    (
        "edge::grants",
        "edge::counter",
        "what was granted and revoked is kept in the Redis that counts, over the same links",
    ),
    ("edge::api_keys", "edge::counter", "and so are keys that are issued while gateways run"),
    ("policy::authorize", "policy::authenticate", "a rule is checked against what the route asks for, at start alone"),
    (
        "policy::authenticate",
        "policy::authorize",
        "a principal carries its roles, which are closed once, when it is compiled",
    ),
    ("policy::authenticate", "policy::limit", "a key's own quotas are compiled with it, as its roles are"),
    (
        "policy::authenticate",
        "policy::token",
        "the gateway's own tokens are one more issuer, with the key that signs them",
    ),
    ("policy::token", "policy::authenticate", "a signing key is bound to its algorithm as a verifying key is"),
    ("policy::token", "policy::authorize", "a user's roles go into the token by name"),
    ("policy::fernet", "policy::body", "what is wrong with a body is told alike"),
    ("policy::sealed", "policy::fernet", "fields are sealed as texts are"),
    ("policy::sealed", "policy::body", "what is wrong with a body is told alike"),
    ("policy::sealed", "policy::authorize", "who reads an answer hangs on roles, which have names"),
    ("policy::answer", "policy::body", "an answer is declared as a body is, and has tensors as requests have"),
    ("policy::answer", "policy::authorize", "what is shown hangs on roles, which have names"),
    ("policy::assertion", "policy::token", "a key that signs is read alike"),
    ("policy::assertion", "policy::authenticate", "and so is the name of its algorithm"),
    ("policy::assertion", "policy::authorize", "a caller's roles and scopes go into the assertion by name"),
    ("policy::body", "policy::token", "the one bound for the form of the token endpoint"),
];
/// What every stage may use.
const SHARED: [&str; 5] = ["policy::path", "policy::json", "policy::facts", "policy::shadow", "policy::unknown"];

/// What pure decisions never name: the outside world, time and chance.
const IMPURE: [&str; 14] = [
    "tokio",
    "hyper",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "SystemTime",
    "Instant::",
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "rand::",
    "getrandom",
];

/// What prints or ends the process.
const LOUD: [&str; 9] = [
    "println!",
    "print!",
    "eprintln!",
    "eprint!",
    "dbg!",
    "io::stdout",
    "io::stderr",
    "process::exit",
    "process::abort",
];

/// One source file of the gateway.
struct Source {
    /// `policy::authenticate::jwt`.
    module: String,
    /// Its code without comments and tests.
    code: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/src")
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("the source is there") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = path.strip_prefix(root()).expect("below the root").with_extension("");
                let module = module.to_string_lossy().replace('/', "::");
                let module = module.strip_suffix("::mod").unwrap_or(&module).to_owned();
                found.push(Source { module, code: code(&fs::read_to_string(path).expect("readable source")) });
            }
        }
    }
    found.sort_by(|a, b| a.module.cmp(&b.module));
    found
}

/// Source without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect()
}

/// The full paths that begin with `crate` or `super`; a group in braces gives one path for each member.
fn paths(source: &Source) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut begin = |word: &str, base: &str| {
        for (at, _) in source.code.match_indices(word) {
            let before = source.code.get(..at).and_then(|text| text.chars().next_back());
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':' && c != '$') {
                let rest = source.code.get(at + word.len()..).unwrap_or_default();
                follow(rest, base, &mut found);
            }
        }
    };
    let parent = source.module.rsplit_once("::").map_or("", |(parent, _)| parent);
    begin("crate::", "");
    begin("super::", parent);
    found
}

/// Reads on behind `crate::` or `super::` as far as names go.
fn follow(text: &str, base: &str, found: &mut BTreeSet<String>) {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        let mut depth = 0_i32;
        let mut start = 0;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    follow(group.get(start..at).unwrap_or_default(), base, found);
                    start = at + 1;
                    if c == '}' {
                        return;
                    }
                }
                _ => {}
            }
        }
        return;
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        return;
    }
    let path = if base.is_empty() { name.to_owned() } else { format!("{base}::{name}") };
    match rest.strip_prefix("::") {
        Some(rest) => follow(rest, &path, found),
        None => drop(found.insert(path)),
    }
}

/// The lines of the module table in `lib.rs`, from the top.
fn table() -> Vec<Vec<String>> {
    let lib = fs::read_to_string(root().join("lib.rs")).expect("readable source");
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | `"));
    rows.map(|row| {
        let cell = row.split('|').next().unwrap_or_default();
        cell.split(',').map(|name| name.trim().trim_matches('`').to_owned()).collect()
    })
    .collect()
}

fn first(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

/// `policy::authenticate` of `policy::authenticate::jwt`.
fn stage(path: &str) -> String {
    path.split("::").take(2).collect::<Vec<_>>().join("::")
}

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_table_names_every_module_once() {
    let lib = code(&fs::read_to_string(root().join("lib.rs")).expect("readable source"));
    let mut declared: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let table = table();
    let mut listed: Vec<&str> = table.iter().flatten().map(String::as_str).collect();
    declared.sort_unstable();
    listed.sort_unstable();
    assert_eq!(declared, listed);
    assert!(declared.len() > 8, "the table was not understood");
}

#[test]
fn no_path_points_up() {
    let table = table();
    let line_of = |module: &str| table.iter().position(|line| line.iter().any(|name| name == module));
    let mut wrong = Vec::new();
    let mut judged = 0;
    for source in sources() {
        let Some(line) = line_of(first(&source.module)) else { continue };
        for path in paths(&source) {
            let Some(other) = line_of(first(&path)) else { continue };
            judged += 1;
            if other < line {
                wrong.push(format!("{} uses {path}, which stands above it", source.module));
            }
        }
    }
    assert_none(&wrong);
    assert!(judged > 60, "only {judged} paths were found, so they were not understood");
}

#[test]
fn files_inside_edge_and_stages_inside_policy_do_not_know_each_other() {
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for source in sources() {
        let room = first(&source.module);
        // The room's own `mod.rs` gathers them, and a part of it what routes name of them.
        if !["edge", "policy"].contains(&room) || [room, "policy::compile"].contains(&&*source.module) {
            continue;
        }
        let ours = stage(&source.module);
        for path in paths(&source).into_iter().filter(|path| first(path) == room && *path != room) {
            let theirs = stage(&path);
            let exception = EXCEPTIONS.iter().position(|(user, target, _)| *user == ours && *target == theirs);
            used.extend(exception);
            if theirs != ours && exception.is_none() && !SHARED.contains(&theirs.as_str()) {
                wrong.push(format!("{} uses {path}", source.module));
            }
        }
    }
    assert_none(&wrong);
    let idle = EXCEPTIONS.iter().enumerate().filter(|(index, _)| !used.contains(index));
    assert_none(
        &idle
            .map(|(_, (user, target, _))| format!("{user} no longer uses {target}; remove the exception"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn policy_names_no_clock_socket_file_variable_or_chance() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| ["policy", "types", "settings"].contains(&first(&source.module))) {
        for word in IMPURE.iter().filter(|word| source.code.contains(**word)) {
            wrong.push(format!("{} names {word}", source.module));
        }
    }
    assert_none(&wrong);
}

#[test]
fn types_use_nothing_of_ours() {
    let foreign = sources().into_iter().filter(|source| first(&source.module) == "types");
    let wrong = foreign.flat_map(|source| {
        let ours = source.module.clone();
        paths(&source).into_iter().filter(|path| first(path) != "types").map(move |path| format!("{ours} uses {path}"))
    });
    assert_none(&wrong.collect::<Vec<_>>());
}

#[test]
fn only_commands_print_or_exit() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !["main", "command"].contains(&first(&source.module))) {
        for word in LOUD.iter().filter(|word| source.code.contains(**word)) {
            wrong.push(format!("{} has {word}", source.module));
        }
    }
    assert_none(&wrong);
}

#[test]
fn only_the_configuration_reads_files_and_variables() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !["main", "command", "config"].contains(&first(&source.module))) {
        for word in ["std::env", "std::fs", "env::var", "File::open"].iter().filter(|word| source.code.contains(**word))
        {
            wrong.push(format!("{} has {word}", source.module));
        }
    }
    assert_none(&wrong);
}

#[test]
fn gateway_and_worker_share_no_code() {
    let manifest = |member: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(member).join("Cargo.toml");
        fs::read_to_string(path).expect("a manifest")
    };
    let names = |text: &str, other: &str| text.lines().any(|line| line.starts_with(other));
    assert!(!names(&manifest("gateway"), "model-worker"), "HTTP is the contract, not code");
    assert!(!names(&manifest("model-worker"), "gateway"), "HTTP is the contract, not code");
}
