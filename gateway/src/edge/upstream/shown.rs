//! What operators are shown of pools and their workers.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::settings::PoolSettings;
use super::standing::{Noted, Shown};

impl PoolSettings {
    /// The pool and each of its workers, as they are now.
    #[must_use]
    pub fn show(&self) -> Value {
        let standing = self.standing.show();
        let workers = self.workers.iter().zip(&standing).map(|(worker, shown)| {
            let [answered, failed, ejected] = shown.counts;
            let state = match (shown.out, &shown.cause) {
                (true, _) => "out",
                (false, Some(_)) => "kept",
                (false, None) => "in",
            };
            json!({
                "worker": &*worker.label,
                "weight": worker.weight,
                "state": state,
                "cause": shown.cause,
                "probes": shown.probes_pass.map(|pass| if pass { "pass" } else { "fail" }),
                "ejected_for_seconds": shown.ejected_for.map(|left| left.as_secs_f64()),
                "answered": answered,
                "failed": failed,
                "ejected": ejected,
            })
        });
        let named = || self.named_workers().iter().map(|worker| &**worker).collect::<Vec<_>>();
        json!({
            "balance": self.balance.name(),
            "workers": workers.collect::<Vec<_>>(),
            // Those that a restart would put in.
            "named_by_files": self.is_swapped().then(named),
            "promoted": self.promoted().map(|candidate| &**candidate),
        })
    }

    /// What came of the copies of its requests, where it is shadowed.
    #[must_use]
    pub fn compare(&self) -> Option<Value> {
        let shadow = self.shadow.as_ref()?;
        let mut report = shadow.report.show();
        if let Value::Object(members) = &mut report {
            members.insert("pool".into(), (*self.name).into());
            members.insert("candidate".into(), (*shadow.name).into());
            members.insert("promoted".into(), (self.promoted() == Some(&shadow.name)).into());
        }
        Some(report)
    }

    /// Whether a worker is ready, where probes know it of each: of all that are, one is enough.
    ///
    /// # Errors
    /// Why none is.
    #[must_use]
    pub fn known_readiness(&self) -> Option<Result<(), String>> {
        self.health.probes.as_ref()?;
        let standing = self.standing.show();
        if standing.iter().any(|shown| shown.probes_pass == Some(true)) {
            return Some(Ok(()));
        }
        let is_known = standing.iter().all(|shown| shown.probes_pass.is_some());
        is_known.then(|| Err(standing.into_iter().find_map(|shown| shown.cause).unwrap_or_default()))
    }
}

/// Writes the numbers of all pools for Prometheus.
pub fn render(pools: &[PoolSettings], out: &mut String) {
    let head = |out: &mut String, name: &str, kind: &str, help: &str| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    };
    let shown: Vec<(&PoolSettings, Vec<Shown>)> = pools.iter().map(|pool| (pool, pool.standing.show())).collect();
    let each = |out: &mut String, name: &str, read: &dyn Fn(&Shown) -> u64| {
        for (pool, workers) in &shown {
            for (worker, shown) in pool.workers.iter().zip(workers) {
                let (pool, worker) = (&*pool.name, &*worker.label);
                let _ = writeln!(out, "{name}{{pool={pool:?},worker={worker:?}}} {}", read(shown));
            }
        }
    };
    let name = "modelgate_worker_in";
    head(out, name, "gauge", "Whether a worker gets requests.");
    each(out, name, &|shown| u64::from(!shown.out));
    for (position, (name, help)) in [
        ("modelgate_worker_answered_total", "Requests that a worker answered."),
        ("modelgate_worker_failed_total", "Requests that a worker gave no usable answer to, or could not be sent."),
        ("modelgate_worker_ejected_total", "Times that a worker was put out because requests failed."),
    ]
    .into_iter()
    .enumerate()
    {
        head(out, name, "counter", help);
        each(out, name, &|shown| shown.counts.get(position).copied().unwrap_or(0));
    }
    render_shadows(pools, out);
    for (noted, name, help) in [
        (Noted::Retried, "modelgate_pool_retries_total", "Requests that were brought to another worker."),
        (Noted::Unaffordable, "modelgate_pool_retries_refused_total", "Requests that were not, because of the budget."),
        (Noted::Full, "modelgate_pool_full_total", "Requests that no worker had room for."),
        (Noted::Canary, "modelgate_pool_canary_total", "Requests that the canary's pool was given."),
    ] {
        head(out, name, "counter", help);
        for pool in pools {
            let _ = writeln!(out, "{name}{{pool={:?}}} {}", &*pool.name, pool.standing.counts.sum(noted as usize));
        }
    }
}

fn render_shadows(pools: &[PoolSettings], out: &mut String) {
    let shadows = || pools.iter().filter_map(|pool| Some((&*pool.name, pool.shadow.as_ref()?)));
    if shadows().next().is_none() {
        return;
    }
    for (name, help, label, kinds) in [
        (
            "modelgate_shadow_copies_total",
            "Copies of requests that another pool answered, failed to answer, or that there was no room for.",
            "outcome",
            &[("answered", 0), ("failed", 1), ("dropped", 2)][..],
        ),
        ("modelgate_shadow_labels_total", "Labels that both pools said, or not.", "same", &[("true", 3), ("false", 4)]),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        for (pool, shadow) in shadows() {
            let counts = shadow.report.counts();
            for (kind, position) in kinds {
                let (to, count) = (&*shadow.name, counts.get(*position).copied().unwrap_or(0));
                let _ = writeln!(out, "{name}{{pool={pool:?},to={to:?},{label}={kind:?}}} {count}");
            }
        }
    }
}
