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

/// Joins texts and macros into the statement for one database. Each macro gets its name, `postgres` or
/// `sqlite`, before its own arguments: see `dialect`.
macro_rules! sql_for {
    (@ $db:ident [$($done:expr),*]) => {
        concat!($($done),*)
    };
    (@ $db:ident [$($done:expr),*] $text:literal $($rest:tt)*) => {
        $crate::store::sql::sql_for!(@ $db [$($done,)* $text] $($rest)*)
    };
    (@ $db:ident [$($done:expr),*] $name:ident ! ($($argument:tt)*) $($rest:tt)*) => {
        $crate::store::sql::sql_for!(@ $db [$($done,)* $name!($db $($argument)*)] $($rest)*)
    };
    ($db:ident $($part:tt)+) => {
        $crate::store::sql::sql_for!(@ $db [] $($part)+)
    };
}

/// Joins texts and macros into an [`Sql`](crate::store::statement::Sql): the statement for each database.
macro_rules! both {
    ($($part:tt)+) => {
        $crate::store::statement::Sql {
            postgres: $crate::store::sql::sql_for!(postgres $($part)+),
            sqlite: $crate::store::sql::sql_for!(sqlite $($part)+),
        }
    };
}

pub(super) use {both, sql, sql_for};
