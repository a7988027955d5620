//! Rows as structs, for both databases.
//!
//! The derive macro of sqlx would build the database drivers, with their C libraries, a second time for the
//! compiler, which is a sixth of the whole build.

/// Defines a struct and reads it from a row by the names of its fields; `field as "name"` reads another
/// column. After a `;` follow structs that are read from the same row.
macro_rules! from_row {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($field_vis:vis $field:ident $(as $column:literal)?: $type:ty),* $(,)?
            $(; $($part_vis:vis $part:ident: $part_type:ty),+ $(,)?)?
        }
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $($field_vis $field: $type,)*
            $($($part_vis $part: $part_type,)+)?
        }

        impl<'r, R> sqlx::FromRow<'r, R> for $name
        where
            R: sqlx::Row,
            &'static str: sqlx::ColumnIndex<R>,
            $($type: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,)*
            $($($part_type: sqlx::FromRow<'r, R>,)+)?
        {
            fn from_row(row: &'r R) -> sqlx::Result<Self> {
                Ok(Self {
                    $($field: row.try_get($crate::store::from_row::column!($field $($column)?))?,)*
                    $($($part: <$part_type as sqlx::FromRow<'r, R>>::from_row(row)?,)+)?
                })
            }
        }
    };
}

macro_rules! column {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $column:literal) => {
        $column
    };
}

pub(super) use {column, from_row};
