//! Small sets of things that the policy defines: one machine word pair each.

macro_rules! small_set {
    ($(#[$doc:meta])* $member:ident, $set:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $member(u8);

        impl $member {
            /// How many of them one policy can have.
            pub const MOST: usize = 128;

            /// The one at `index`, or `None` past [`Self::MOST`].
            #[must_use]
            pub fn new(index: usize) -> Option<Self> {
                u8::try_from(index).ok().filter(|&i| usize::from(i) < Self::MOST).map(Self)
            }

            /// Its position.
            #[must_use]
            pub fn index(self) -> usize {
                usize::from(self.0)
            }
        }

        /// A set of them.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $set(u128);

        impl $set {
            /// The set and one more.
            #[must_use]
            pub fn with(self, member: $member) -> Self {
                Self(self.0 | 1 << member.0)
            }

            /// Everything in either set.
            #[must_use]
            pub fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// Whether it is in the set.
            #[must_use]
            pub fn contains(self, member: $member) -> bool {
                self.0 & 1 << member.0 != 0
            }

            /// Whether the set has everything that another has.
            #[must_use]
            pub fn includes(self, other: Self) -> bool {
                other.0 & !self.0 == 0
            }

            /// The lowest that both sets hold.
            #[must_use]
            pub fn first_common(self, other: Self) -> Option<$member> {
                let common = self.0 & other.0;
                (common != 0).then(|| usize::try_from(common.trailing_zeros()).ok()).flatten().and_then($member::new)
            }

            /// Whether the set is empty.
            #[must_use]
            pub fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Its members, in their order.
            pub fn iter(self) -> impl Iterator<Item = $member> {
                (0..$member::MOST).filter_map($member::new).filter(move |member| self.contains(*member))
            }
        }
    };
}

small_set!(
    /// A role's position in the compiled policy.
    Role, RoleSet
);
small_set!(
    /// A scope's position among those that the policy asks for.
    Scope, ScopeSet
);
small_set!(
    /// The position of a right among those that ask for claims.
    ClaimRule, ClaimSet
);

#[cfg(test)]
mod tests {
    use super::{Role, RoleSet};

    #[test]
    fn role_sets() {
        let role = |i| Role::new(i).expect("a small index");
        let low = RoleSet::default().with(role(0)).with(role(5));
        let high = RoleSet::default().with(role(5)).with(role(127));
        assert_eq!(low.first_common(high), Some(role(5)));
        assert_eq!(low.first_common(RoleSet::default().with(role(1))), None);
        assert!(low.union(high).contains(role(127)) && !low.contains(role(127)));
        assert!(low.union(high).includes(high) && !low.includes(high));
        assert_eq!(high.iter().map(Role::index).collect::<Vec<_>>(), [5, 127]);
        assert!(Role::new(128).is_none());
    }
}
