//! The roles that a policy defines.

use std::collections::HashMap;

use crate::settings::Section;
use crate::types::{Name, Role, RoleSet};

/// The roles that the policy defines, each with all that it includes.
#[derive(Debug, Default)]
pub struct Roles {
    names: Vec<Name>,
    index: HashMap<Name, Role>,
    closures: Vec<RoleSet>,
}

impl Roles {
    /// Reads every `[roles.NAME]` and resolves `includes`.
    #[must_use]
    pub fn compile(root: &Section<'_>) -> Self {
        let sections = root.sections("roles");
        let mut roles = Self::default();
        for (position, section) in sections.iter().enumerate() {
            let name = section.name();
            match Role::new(position) {
                Some(role) => {
                    if name.contains(',') || !name.bytes().all(|b| b.is_ascii_graphic()) {
                        section.mistake_here(
                            "has a name with a character that can't stand in a header",
                            "use letters, digits, - and _",
                        );
                    }
                    roles.index.insert(name.clone(), role);
                    roles.names.push(name);
                }
                None => section.mistake_here(
                    format!("is more than the {} roles that one policy can have", Role::MOST),
                    "merge roles that grant the same",
                ),
            }
        }
        let mut direct = Vec::new();
        for section in &sections {
            direct.push(roles.references(section, "includes"));
        }
        for section in sections {
            section.finish();
        }
        // A set grows until nothing is added: at most one round per role, and cycles are harmless.
        roles.closures = direct
            .iter()
            .enumerate()
            .map(|(position, includes)| Role::new(position).map_or(*includes, |role| includes.with(role)))
            .collect();
        loop {
            let grown: Vec<RoleSet> = roles.closures.iter().map(|set| roles.close(*set)).collect();
            if grown == roles.closures {
                return roles;
            }
            roles.closures = grown;
        }
    }

    /// The set with everything that its roles include.
    #[must_use]
    pub fn close(&self, set: RoleSet) -> RoleSet {
        let members = (0..self.closures.len()).filter_map(Role::new).filter(|role| set.contains(*role));
        members.filter_map(|role| self.closures.get(role.index())).fold(set, |sum, set| sum.union(*set))
    }

    /// The roles' names, in their order.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// The role of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Role> {
        self.index.get(name).copied()
    }

    /// The name of a role.
    #[must_use]
    pub fn name(&self, role: Role) -> &str {
        self.names.get(role.index()).map_or("", |name| name)
    }

    /// The names of a set's roles, separated by commas.
    #[must_use]
    pub fn list(&self, set: RoleSet) -> String {
        let members = (0..self.names.len()).filter_map(Role::new).filter(|role| set.contains(*role));
        members.map(|role| self.name(role)).collect::<Vec<_>>().join(",")
    }

    /// Reads a list of roles; one that is not defined is a mistake. Not closed.
    pub fn references(&self, section: &Section<'_>, key: &str) -> RoleSet {
        let mut set = RoleSet::default();
        for (index, name) in section.list::<String>(key) {
            if let Some(role) = self.find(&name) {
                set = set.with(role);
            } else {
                let defined: Vec<&str> = self.names.iter().map(|name| &**name).collect();
                section.undefined(key, Some(index), ("role", "roles"), &name, &defined);
            }
        }
        set
    }
}
