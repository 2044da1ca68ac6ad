//! `gateway routes`.
#![expect(clippy::print_stdout, reason = "printing is what commands are for")]

use gateway::config::{Config, ConfigFile};
use gateway::policy::answer::declared::Declared;
use gateway::policy::authorize::{Right, Who};
use gateway::policy::profile::Profile;
use gateway::policy::{Destination, Policy, Route};
use serde_json::{Value, json};

use super::{Failure, table};

/// Who may call what: every route, those that say more before those that say less.
pub(crate) fn run(files: &[ConfigFile], as_json: bool) -> Result<(), Failure> {
    let (policy, _) = Config::load_policy(files)?;
    let policy = &policy;
    let mut rows = vec![
        ["methods", "path", "route", "credential", "who", "limits", "goes to", "answers", "fields"].map(str::to_owned),
    ];
    let mut list = Vec::new();
    for (matched, id) in policy.table.rows() {
        let Some(route) = policy.route(*id) else { continue };
        let methods: Vec<&str> = matched.methods().iter().map(http::Method::as_str).collect();
        let hosts = matched.hosts().map(|hosts| hosts.iter().map(|host| &**host).collect::<Vec<&str>>());
        let path = hosts
            .as_ref()
            .map_or_else(|| matched.path().to_owned(), |it| format!("{} at {}", matched.path(), it.join(", ")));
        let limits: Vec<&str> = route.limits.all().map(|limit| &*limit.name).collect();
        let (who, to) = (who(policy, route), destination(policy, route));
        let answers = route.declared.as_ref().map_or_else(String::new, Declared::describe);
        let sealed = route.sealed.as_ref().map_or_else(String::new, |sealed| sealed.describe());
        if as_json {
            list.push(json!({
                "methods": methods, "path": matched.path(), "hosts": hosts, "route": &*route.name,
                "authenticate": route.authenticate.list(), "authorize": who, "limits": limits, "destination": to,
                "profile": route.profile().name(), "opens": route.reach.opens(), "answers": answers, "sealed": sealed,
            }));
        }
        let limits = if limits.is_empty() { "none".into() } else { limits.join(", ") };
        rows.push([
            methods.join(" "),
            path,
            route.name.to_string(),
            route.authenticate.list(),
            who,
            limits,
            to,
            answers,
            sealed,
        ]);
    }
    if as_json {
        println!("{}", Value::Array(list));
    } else {
        println!("{}", table(&rows));
    }
    Ok(())
}

fn who(policy: &Policy, route: &Route) -> String {
    let words = &policy.vocabulary;
    let right = |right: &Right| {
        let who = match &right.who {
            Who::Anonymous => "everybody".into(),
            Who::Authenticated => "whoever is proven".into(),
            Who::AnyOf(roles) => words.roles.list(*roles).replace(',', ", "),
        };
        let conditions = right.conditions(words);
        if conditions.is_empty() { who } else { format!("{who} ({conditions})") }
    };
    route.authorize.rights().iter().map(|it| right(it)).collect::<Vec<_>>().join("; ")
}

fn destination(policy: &Policy, route: &Route) -> String {
    match &route.destination {
        Destination::Pool(position) => {
            let pool = policy.pools.get(*position).map_or("", |pool| pool);
            let mut to = route.worker_path.as_ref().map_or_else(|| pool.to_owned(), |path| format!("{pool} as {path}"));
            if route.profile() != Profile::Plain {
                to = format!("{to} ({})", route.profile().name());
            }
            if !route.reach.opens().is_empty() {
                to = format!("{to}, opens {}", route.reach.opens().join(" "));
            }
            to
        }
        Destination::Own(_) | Destination::Fernet(_) => "the gateway itself".into(),
    }
}
