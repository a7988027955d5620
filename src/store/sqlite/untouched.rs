//! Reads a file without changing it: it may be another application's, or one that may only be read.

use super::{folder, schema};
use crate::ports::store_error::StoreError;
use crate::store::Unmigrated;
use crate::store::error::opening;
use rustix::fs::Access;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use std::collections::BTreeSet;
use std::path::Path;

/// Refuses another application's file, before anything turns its write-ahead log on.
pub(super) async fn refuse_foreign(
    options: &SqliteConnectOptions,
    unmigrated: Unmigrated,
) -> Result<(), StoreError> {
    let mut connection = open(options).await?;
    if unmigrated == Unmigrated::Empty {
        let others = schema::others_alone(&mut connection).await;
        schema::refuse_others_alone(&others.map_err(opening)?)?;
    }
    connection.close().await.map_err(opening)
}

/// Returns the versions that are applied to verifyd's own file; none to an empty one.
pub(super) async fn applied(options: &SqliteConnectOptions) -> Result<BTreeSet<i64>, StoreError> {
    let mut connection = open(options).await?;
    let applied = schema::applied(&mut connection).await?;
    connection.close().await.map_err(opening)?;
    Ok(applied)
}

/// Opens a file that is not another application's. Neither this nor the end of the connection changes it.
///
/// At its end, the last connection that may write moves the write-ahead log into the file. One that only reads leaves an
/// empty log behind where there was none, and cannot read the file where it must not create one.
async fn open(options: &SqliteConnectOptions) -> Result<SqliteConnection, StoreError> {
    let file = options.get_filename();
    let options = options.clone();
    let options = if is_beside(file, "-wal") {
        options.read_only(true)
    } else if may_write(file) {
        options
    } else {
        // With a journal beside it, it may not be read as it is.
        let is_whole = !is_beside(file, "-journal");
        options.read_only(true).immutable(is_whole)
    };
    let mut connection = options.connect().await.map_err(opening)?;
    let foreign = schema::foreign(&mut connection).await.map_err(opening)?;
    schema::refuse(&foreign)?;
    Ok(connection)
}

fn is_beside(file: &Path, ending: &str) -> bool {
    let mut path = file.as_os_str().to_owned();
    path.push(ending);
    Path::new(&path).exists()
}

/// Whether this user may write the file, and create others beside it.
fn may_write(file: &Path) -> bool {
    rustix::fs::access(file, Access::WRITE_OK).is_ok()
        && rustix::fs::access(folder(file), Access::WRITE_OK | Access::EXEC_OK).is_ok()
}
