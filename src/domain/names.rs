//! Enumerations with fixed names, used in the database and in JSON.

/// A text that is no name of the enumeration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {found:?}, allowed: {allowed}")]
pub struct UnknownName {
    pub field: &'static str,
    pub found: String,
    pub allowed: &'static str,
}

/// Declares an enumeration, each value with its name, and after the colon the field that messages name.
macro_rules! text_enum {
    (
        $(#[$about:meta])*
        $visibility:vis enum $type:ident: $field:literal {
            $($(#[$about_value:meta])* $variant:ident => $name:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(::serde::Serialize, ::serde::Deserialize)]
        $visibility enum $type {
            $($(#[$about_value])* #[serde(rename = $name)] $variant,)+
        }

        impl $type {
            /// Every value, in the order of the declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the name, as in the database and in JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::domain::names::UnknownName;
            fn from_str(s: &str) -> Result<Self, $crate::domain::names::UnknownName> {
                match s {
                    $($name => Ok(Self::$variant),)+
                    other => Err($crate::domain::names::UnknownName {
                        field: $field,
                        found: other.chars().take(64).collect(),
                        allowed: $crate::domain::names::text_enum!(@list $($name),+),
                    }),
                }
            }
        }
    };
    (@list $first:literal $(, $rest:literal)*) => { concat!($first $(, ", ", $rest)*) };
}
pub(crate) use text_enum;
