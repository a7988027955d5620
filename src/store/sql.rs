//! Statements that are assembled at compile time from texts and macros with shared conditions.

/// Joins texts and macros that expand to texts into one statement.
macro_rules! sql {
    (@ [$($done:expr),*]) => {
        concat!($($done),*)
    };
    (@ [$($done:expr),*] $text:literal $($rest:tt)*) => {
        $crate::store::sql::sql!(@ [$($done,)* $text] $($rest)*)
    };
    (@ [$($done:expr),*] $($name:ident)::+ ! $arguments:tt $($rest:tt)*) => {
        $crate::store::sql::sql!(@ [$($done,)* $($name)::+!$arguments] $($rest)*)
    };
    ($($part:tt)+) => {
        $crate::store::sql::sql!(@ [] $($part)+)
    };
}
pub(super) use sql;
