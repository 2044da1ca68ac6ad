//! What a request asks of its route's limits, and when: before its body is read where nothing in it counts, else behind
//! it, and for whoever guesses at credentials by their address.

use std::sync::{Arc, LazyLock};

use http::HeaderMap;

use crate::edge::counter::Denied;
use crate::exchange::Exchange;
use crate::policy::limit::cost::Size;
use crate::policy::limit::scope::{By, Subject};
use crate::policy::limit::{Admission, Demand, Limit};
use crate::policy::token::Endpoint;
use crate::policy::{Destination, Route};
use crate::problem::Stop;
use crate::types::Principal;

/// A request as its limits see it.
pub(crate) struct Asking<'a> {
    pub(crate) route: &'a Route,
    pub(crate) principal: &'a Principal,
    pub(crate) path: &'a str,
    /// The headers, where a trusted proxy sent them.
    pub(crate) headers: Option<&'a HeaderMap>,
    pub(crate) user: &'a str,
    /// Empty where none is named, or not yet.
    pub(crate) model: &'a str,
}

impl Asking<'_> {
    fn subject<'s>(&'s self, exchange: &'s Exchange) -> Subject<'s> {
        let policy = &exchange.core.snapshot.policy;
        let pool = match self.route.destination {
            Destination::Pool(position) => policy.pools.get(position).map_or("", |name| name),
            Destination::Own(_) | Destination::Fernet(_) => "",
        };
        Subject {
            address: exchange.client.ip,
            principal: &self.principal.id,
            // Each key has its own principal; those that stand for the same one are counted together.
            api_key: &self.principal.id,
            // Where no role opens the route, those who hold the same share a window.
            role: match exchange.role {
                Some(role) => policy.vocabulary.roles.name(role),
                None => self.principal.roles_header.to_str().unwrap_or_default(),
            },
            route: &self.route.name,
            model: self.model,
            pool,
            user: self.user,
            headers: self.headers,
        }
    }

    /// Takes the request's places among those in flight, which it keeps to its end.
    fn take_places(&self, exchange: &mut Exchange) -> Result<(), Stop> {
        if self.route.limits.in_flight.is_empty() {
            return Ok(());
        }
        let counter = &exchange.core.counter;
        let taken = counter.take_places(&self.route.limits.in_flight, Some(self.principal), &self.subject(exchange));
        if let Some(taken) = taken.map_err(|refusal| Stop::Limit(Denied::Full(refusal)))? {
            exchange.places = Some(taken.places);
            if let Some(limits) = taken.would_refuse {
                exchange.would_refuse(&limits);
            }
            // Where a guesser's limits stand is for the one who guessed right.
            exchange.rate = taken.headers.filter(|_| matches!(self.route.destination, Destination::Pool(_)));
        }
        Ok(())
    }

    /// Asks what can be asked before the body is there; `None` where the rest has to wait for it.
    pub(crate) async fn begin(&self, exchange: &mut Exchange) -> Result<Option<Admission>, Stop> {
        self.take_places(exchange)?;
        if self.route.limits.needs_body {
            self.recall(exchange)?;
            return Ok(None);
        }
        match self.route.destination {
            // Where a guesser's limits stand is for the one who guessed right.
            Destination::Own(Endpoint::Token | Endpoint::Revoke | Endpoint::Introspect) => {
                self.admit(exchange, Size::default()).await.map(Some)
            }
            // Other clients learn it, whatever becomes of the rest.
            Destination::Own(Endpoint::Jwks | Endpoint::Metadata) | Destination::Fernet(_) | Destination::Pool(_) => {
                self.admit_and_say(exchange, Size::default()).await.map(Some)
            }
        }
    }

    /// Refuses what is known to be refused, before its body is read. Nobody knows yet which user it names, or which model.
    fn recall(&self, exchange: &Exchange) -> Result<(), Stop> {
        let late = |limit: &Limit| limit.scope.has(&By::User) || self.is_late(limit);
        let limits = self.route.limits.windows.iter().filter(|limit| !late(limit));
        let demands: Vec<_> = limits.map(|limit| Demand::new(limit, Some(self.principal), Size::default())).collect();
        exchange.core.counter.recall(&demands, &self.subject(exchange)).map_err(Stop::Limit)
    }

    /// Whether it counts by a model that is not known yet, or by a role that hangs on it.
    fn is_late(&self, limit: &Limit) -> bool {
        let is_late = limit.scope.has(&By::Model) || limit.scope.has(&By::Role);
        is_late && self.route.model.is_in_body(self.path)
    }

    /// Counts a request whose limits are known, and notes what its answer says of them.
    pub(crate) async fn admit_and_say(&self, exchange: &mut Exchange, size: Size) -> Result<Admission, Stop> {
        let admission = self.admit(exchange, size).await?;
        Ok(exchange.say(admission))
    }

    /// Counts a request whose body is refused, where limits waited for it: as the smallest one. Bodies that are good
    /// for nothing would be free otherwise.
    pub(crate) async fn refused(&self, exchange: &mut Exchange, early: Option<&Admission>, stop: Stop) -> Stop {
        if early.is_some() {
            return stop;
        }
        let admitted = match self.route.destination {
            Destination::Own(_) => Box::pin(self.admit(exchange, Size::default())).await,
            Destination::Fernet(_) | Destination::Pool(_) => {
                Box::pin(self.admit_and_say(exchange, Size::default())).await
            }
        };
        admitted.err().unwrap_or(stop)
    }

    /// Counts it.
    pub(crate) async fn admit(&self, exchange: &mut Exchange, size: Size) -> Result<Admission, Stop> {
        let demands = demands(&self.route.limits.windows, self.principal, size);
        let admitted = exchange.core.counter.admit(&demands, &self.subject(exchange)).await;
        let admitted = admitted.map_err(|mut denied| {
            // The places come behind what refused.
            if let (Denied::Full(refusal), Some(said)) = (&mut denied, exchange.rate.take()) {
                refusal.headers.join(said);
            }
            Stop::Limit(denied)
        })?;
        exchange.charge = admitted.charge;
        if let Some(limits) = admitted.would_refuse {
            exchange.would_refuse(&limits);
        }
        Ok(admitted.admission)
    }
}

fn demands<'a>(limits: &'a [Arc<Limit>], principal: &'a Principal, size: Size) -> Vec<Demand<'a>> {
    limits.iter().map(|limit| Demand::new(limit, Some(principal), size)).collect()
}

/// Counts a request that proves nobody, or nobody who may, against its address.
pub(crate) async fn charge_guess(
    exchange: &Exchange,
    route: &Route,
    path: &str,
    headers: Option<&HeaderMap>,
) -> Result<(), Stop> {
    static NOBODY: LazyLock<Principal> = LazyLock::new(Principal::nobody);
    let nobody = &*NOBODY;
    let asking = Asking { route, principal: nobody, path, headers, user: "", model: route.model.of(path) };
    let demands = demands(&route.limits.guesses, nobody, Size::default());
    exchange.core.counter.count(&demands, &asking.subject(exchange)).await.map_err(Stop::Limit)
}
