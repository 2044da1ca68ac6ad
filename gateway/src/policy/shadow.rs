//! Rules of a route that are only tried out: evaluated, recorded as "would refuse", and not enforced.
//!
//! For limits there is `when_full = "shadow"`, which belongs to the limit. What a rule on credentials, rights, pages or
//! bodies would keep out gets in while it is in shadow, so the key says that it is dangerous. Bounds on size and time,
//! heads, paths and framing are no rules of a route and are always enforced.

use crate::settings::{Named, Section};

/// A stage whose rule can be tried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Cors,
    Authenticate,
    Authorize,
    Body,
}

impl Named for Stage {
    const SHAPE: &'static str = "\"cors\", \"authenticate\", \"authorize\" or \"body\"";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("cors", Self::Cors),
        ("authenticate", Self::Authenticate),
        ("authorize", Self::Authorize),
        ("body", Self::Body),
    ];
}

/// Which of a route's rules are only tried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each stage")]
pub struct Shadow {
    /// Pages of other origins may call and read.
    pub cors: bool,
    /// Whoever proves nothing goes on as "anonymous".
    pub authenticate: bool,
    /// Whoever lacks the right goes on.
    pub authorize: bool,
    /// A body that is not what it should be goes on as it is.
    pub body: bool,
}

impl Shadow {
    /// Reads `danger_shadow`.
    #[must_use]
    pub fn compile(section: &Section<'_>) -> Self {
        let stages = section.all::<Stage>("danger_shadow");
        let has = |stage| stages.contains(&stage);
        let shadow = Self {
            cors: has(Stage::Cors),
            authenticate: has(Stage::Authenticate),
            authorize: has(Stage::Authorize),
            body: has(Stage::Body),
        };
        if shadow.authenticate && !shadow.authorize {
            section.mistake(
                "danger_shadow",
                "names \"authenticate\" without \"authorize\", so whoever it lets pass would be refused for lack of a role",
                "write both",
            );
        }
        for (tried, stage, key) in [(shadow.cors, "cors", "cors"), (shadow.body, "body", "body")] {
            if tried && !section.has(key) {
                let reason = format!("names {stage:?}, and the route has no such rule");
                section.mistake("danger_shadow", reason, format!("remove it, or define `{key}`"));
            }
        }
        shadow
    }
}
