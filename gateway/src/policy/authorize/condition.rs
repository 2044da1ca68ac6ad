//! Conditions of a right on where a request comes from, how, and when.

use super::Unmet;
use crate::policy::facts::Facts;
use crate::settings::{Named, Section};
use crate::types::{Network, Timestamp};

const DAY: u64 = 24 * 60;

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Day(u8);

impl Named for Day {
    const SHAPE: &'static str = "\"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\" or \"sun\"";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("mon", Self(0)),
        ("tue", Self(1)),
        ("wed", Self(2)),
        ("thu", Self(3)),
        ("fri", Self(4)),
        ("sat", Self(5)),
        ("sun", Self(6)),
    ];
}

/// From one minute of the day until before another; over midnight where it ends before it begins. In UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hours {
    from: u64,
    until: u64,
}

impl Hours {
    /// Reads `08:00-18:30`.
    fn parse(text: &str) -> Option<Self> {
        let minute = |text: &str| {
            let (hour, minute) = text.split_once(':')?;
            let is_number = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            if !is_number(hour) || !is_number(minute) {
                return None;
            }
            let (hour, minute) = (hour.parse::<u64>().ok()?, minute.parse::<u64>().ok()?);
            let all = hour * 60 + minute;
            (minute < 60 && all <= DAY).then_some(all)
        };
        let (from, until) = text.split_once('-')?;
        let (from, until) = (minute(from)?, minute(until)?);
        (from < DAY && from != until).then_some(Self { from, until })
    }

    /// Whether the minute is in it, and whether it belongs to the day before.
    fn holds(self, minute: u64) -> Option<bool> {
        if self.from < self.until {
            (self.from..self.until).contains(&minute).then_some(false)
        } else if minute >= self.from {
            Some(false)
        } else {
            (minute < self.until).then_some(true)
        }
    }
}

/// Where from, how and when; all of it must hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Condition {
    mtls: bool,
    networks: Box<[Network]>,
    hours: Option<Hours>,
    days: Box<[Day]>,
}

impl Condition {
    /// Reads `networks`, `hours`, `days` and `mtls`.
    pub(super) fn compile(section: &Section<'_>) -> Self {
        let hours = section.optional::<String>("hours").and_then(|text| {
            let hours = Hours::parse(&text);
            if hours.is_none() {
                let remedy = "write a time such as \"08:00-18:00\", in UTC; over midnight such as \"22:00-06:00\"";
                section.mistake("hours", format!("is {text:?}, which is no part of a day"), remedy);
            }
            hours
        });
        for key in ["networks", "days"].into_iter().filter(|key| section.has(key)) {
            if section.all::<String>(key).is_empty() {
                section.mistake(key, "is empty, so nobody ever has the right", "remove it, or name some");
            }
        }
        let mtls = section.or("mtls", true);
        if !mtls {
            let remedy = "remove it, or write true to ask for a client certificate";
            section.mistake("mtls", "is false, and no right is for those alone who have no certificate", remedy);
        }
        let (networks, days) = (section.all("networks").into(), section.all("days").into());
        Self { mtls: section.has("mtls"), networks, hours, days }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.mtls && self.networks.is_empty() && self.hours.is_none() && self.days.is_empty()
    }

    pub(super) fn decide(&self, facts: &Facts<'_>) -> Result<(), Unmet> {
        if !self.networks.is_empty() && !self.networks.iter().any(|network| network.contains(facts.address)) {
            return Err(Unmet::Network);
        }
        if self.mtls && !facts.certificate.is_some_and(|certificate| certificate.holds(facts.now)) {
            return Err(Unmet::Certificate);
        }
        if self.hours.is_none() && self.days.is_empty() {
            return Ok(());
        }
        let (day, minute) = day_and_minute(facts.now);
        let late = match self.hours {
            Some(hours) => hours.holds(minute).ok_or(Unmet::Time)?,
            None => false,
        };
        // A night belongs to the day on which it began.
        let day = if late { (day + 6) % 7 } else { day };
        if self.days.is_empty() || self.days.contains(&Day(day)) { Ok(()) } else { Err(Unmet::Time) }
    }

    /// Adds what it asks for, for people.
    pub(super) fn describe(&self, said: &mut Vec<String>) {
        if !self.networks.is_empty() {
            said.push(format!("from {}", self.networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")));
        }
        if self.mtls {
            said.push("with a client certificate".into());
        }
        if let Some(Hours { from, until }) = self.hours {
            said.push(format!("{:02}:{:02}-{:02}:{:02} UTC", from / 60, from % 60, until / 60, until % 60));
        }
        let name = |day: &Day| Day::NAMES.iter().find(|(_, known)| known == day).map_or("", |(name, _)| *name);
        if !self.days.is_empty() {
            said.push(self.days.iter().map(name).collect::<Vec<_>>().join(" "));
        }
    }
}

/// The day of the week, from Monday, and the minute of the day.
fn day_and_minute(now: Timestamp) -> (u8, u64) {
    let minutes = now.secs() / 60;
    // The first of January 1970 was a Thursday.
    (u8::try_from((minutes / DAY + 3) % 7).unwrap_or_default(), minutes % DAY)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::{HeaderMap, Method};

    use super::*;
    use crate::settings::tests::with_section;

    fn decide(condition: &str, at: &str, address: [u8; 4]) -> Result<(), Unmet> {
        let (condition, mistakes) = with_section(condition, Condition::compile);
        assert_eq!(mistakes, []);
        let (method, headers) = (Method::GET, HeaderMap::new());
        condition.decide(&Facts {
            method: &method,
            host: "",
            path: "/",
            sent_path: "/",
            query: None,
            headers: &headers,
            certificate: None,
            address: IpAddr::from(address),
            now: Timestamp::parse(at).expect("an instant"),
        })
    }

    #[test]
    fn times_and_places() {
        let office = "hours = \"08:00-18:00\"\ndays = [\"mon\", \"fri\"]";
        let night = "hours = \"22:00-06:00\"\ndays = [\"fri\"]";
        // The 2nd of November 2026 was a Monday.
        for (condition, at, met) in [
            (office, "2026-11-02T08:00:00Z", true),
            (office, "2026-11-02T17:59:59Z", true),
            (office, "2026-11-02T18:00:00Z", false),
            (office, "2026-11-02T07:59:59Z", false),
            (office, "2026-11-03T12:00:00Z", false),
            (office, "2026-11-06T12:00:00Z", true),
            (night, "2026-11-06T22:00:00Z", true),
            (night, "2026-11-07T05:59:00Z", true),
            (night, "2026-11-07T06:00:00Z", false),
            (night, "2026-11-06T05:00:00Z", false),
            ("hours = \"00:00-24:00\"", "2026-11-06T23:59:59Z", true),
        ] {
            assert_eq!(
                decide(condition, at, [10, 1, 2, 3]),
                if met { Ok(()) } else { Err(Unmet::Time) },
                "{condition} {at}"
            );
        }
        let inside = "networks = [\"10.0.0.0/8\"]";
        assert_eq!(decide(inside, "2026-11-06T12:00:00Z", [10, 1, 2, 3]), Ok(()));
        assert_eq!(decide(inside, "2026-11-06T12:00:00Z", [11, 1, 2, 3]), Err(Unmet::Network));
    }

    #[test]
    fn what_is_no_time_is_a_mistake() {
        for wrong in
            ["8-18", "08:00", "08:00-08:00", "24:00-01:00", "08:60-09:00", "08:00-25:00", "8:00-18:00", "+8:00-18:00"]
        {
            let (_, mistakes) = with_section(&format!("hours = {wrong:?}"), Condition::compile);
            assert_eq!(mistakes.len(), 1, "{wrong}");
        }
        assert_eq!(with_section("days = []", Condition::compile).1.len(), 1);
    }
}
