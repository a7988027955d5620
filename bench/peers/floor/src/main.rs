//! FLOOR: one `provider.connection.check` run as fast as this box does it, with no queue framework
//! and no crash safety (jobs are popped, not leased). See bench/README.md for the work and the variables.
mod http;
mod report;

use std::env;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, NoTls, Statement};

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub type Res<T> = Result<T, Box<dyn Error + Send + Sync>>;

const CLAIM: &str = "UPDATE operation_runs SET status='running', started_at=now() \
    WHERE id = ANY($1) AND status='queued' RETURNING id, tenant_id, context";
const CLAIM_ONE: &str = "UPDATE operation_runs SET status='running', started_at=now() \
    WHERE id = $1 AND status='queued' RETURNING id, tenant_id, context";
// Both writes of the completion in one statement, hence one transaction. The 20 statuses travel as a bit mask.
const DONE: &str = "WITH p AS (\
    INSERT INTO tenant_permissions(tenant_id, permission_key, status, last_checked_at) \
    SELECT d.t, k.key, CASE WHEN (d.mask >> (k.i::int - 1)) & 1 = 1 THEN 'granted' ELSE 'missing' END, now() \
    FROM unnest($1::bigint[], $2::bigint[]) AS d(t, mask), unnest($3::text[]) WITH ORDINALITY AS k(key, i) \
    ON CONFLICT (tenant_id, permission_key) DO UPDATE SET status=excluded.status, last_checked_at=excluded.last_checked_at) \
    UPDATE operation_runs r SET status='completed', outcome='succeeded', \
    context = r.context || jsonb_build_object('verification_report', d.report), completed_at=now() \
    FROM unnest($4::bigint[], $5::jsonb[]) AS d(id, report) WHERE r.id = d.id AND r.status='running'";
const DONE_ONE: &str = "WITH p AS (\
    INSERT INTO tenant_permissions(tenant_id, permission_key, status, last_checked_at) \
    SELECT $1, k.key, CASE WHEN ($2::bigint >> (k.i::int - 1)) & 1 = 1 THEN 'granted' ELSE 'missing' END, now() \
    FROM unnest($3::text[]) WITH ORDINALITY AS k(key, i) \
    ON CONFLICT (tenant_id, permission_key) DO UPDATE SET status=excluded.status, last_checked_at=excluded.last_checked_at) \
    UPDATE operation_runs SET status='completed', outcome='succeeded', \
    context = context || jsonb_build_object('verification_report', $5::jsonb), completed_at=now() \
    WHERE id = $4 AND status='running'";

#[derive(Debug)]
struct Jsonb(Vec<u8>);

impl<'a> FromSql<'a> for Jsonb {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Res<Self> {
        Ok(Jsonb(raw[1..].to_vec()))
    }
    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }
}

impl ToSql for Jsonb {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Res<IsNull> {
        out.put_u8(1);
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }
    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }
    to_sql_checked!();
}

fn var(name: &str, default: usize) -> usize {
    env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

async fn pg() -> Res<Client> {
    let (client, conn) = tokio_postgres::connect(&env::var("DATABASE_URL")?, NoTls).await?;
    tokio::spawn(async move {
        if let Err(e) = conn.await {
            eprintln!("postgres: {e}");
        }
    });
    Ok(client)
}

struct Conn {
    client: Client,
    claim: Statement,
    done: Statement,
}

struct Pool {
    idle: Mutex<Vec<Conn>>,
    free: Semaphore,
}

impl Pool {
    async fn with<T, F: AsyncFnOnce(&Conn) -> Res<T>>(&self, f: F) -> Res<T> {
        let _permit = self.free.acquire().await?;
        let conn = self
            .idle
            .lock()
            .unwrap()
            .pop()
            .expect("a permit means an idle connection");
        let out = f(&conn).await;
        self.idle.lock().unwrap().push(conn);
        out
    }
}

struct Claimed {
    id: i64,
    tenant: i64,
    context: Jsonb,
}

struct Done {
    id: i64,
    tenant: i64,
    mask: i64,
    report: Jsonb,
    _permit: OwnedSemaphorePermit,
}

/// Steps 3 and 4: three HTTP calls and the report.
async fn check(http: &http::Http, spec: &report::Spec, context: &[u8]) -> Res<(i64, Jsonb)> {
    let ctx: report::Context = serde_json::from_slice(context)?;
    let token = http.token(ctx.target_scope.entra_tenant_id).await?;
    let (org, roles) = tokio::try_join!(
        http.organization(&token.access),
        http.roles(&token.access, spec)
    )?;
    let (mask, bytes) = report::build(spec, &ctx, &token, &org, roles)?;
    Ok((mask, Jsonb(bytes)))
}

async fn pop(redis: &mut redis::aio::MultiplexedConnection, count: usize) -> Res<Vec<i64>> {
    #[derive(serde::Deserialize)]
    struct Job {
        operation_run_id: i64,
    }
    let got: Option<(String, Vec<Vec<u8>>)> = redis::cmd("BLMPOP")
        .arg(0)
        .arg(1)
        .arg("jobs")
        .arg("RIGHT")
        .arg("COUNT")
        .arg(count)
        .query_async(redis)
        .await?;
    let mut ids = Vec::new();
    for j in got.map(|g| g.1).unwrap_or_default() {
        ids.push(serde_json::from_slice::<Job>(&j)?.operation_run_id);
    }
    Ok(ids)
}

async fn redis_conn() -> Res<redis::aio::MultiplexedConnection> {
    let cfg = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(redis::Client::open(env::var("REDIS_URL")?)?
        .get_multiplexed_async_connection_with_config(&cfg)
        .await?)
}

/// One statement per claim and one per completion, each its own transaction, as every peer does.
async fn work_single(conc: usize) -> Res<()> {
    let n = var("FLOOR_PG", conc.min(64));
    let mut idle = Vec::new();
    for _ in 0..n {
        let client = pg().await?;
        let (claim, done) = tokio::try_join!(client.prepare(CLAIM_ONE), client.prepare(DONE_ONE))?;
        idle.push(Conn {
            client,
            claim,
            done,
        });
    }
    let pool = Arc::new(Pool {
        idle: Mutex::new(idle),
        free: Semaphore::new(n),
    });
    let spec = Arc::new(report::Spec::load()?);
    let http = Arc::new(http::Http::new(&env::var("PROVIDER_URL")?)?);
    let (tx, rx) = async_channel::bounded::<i64>(conc);
    for _ in 0..conc {
        let (rx, pool, spec, http) = (rx.clone(), pool.clone(), spec.clone(), http.clone());
        tokio::spawn(async move {
            while let Ok(id) = rx.recv().await {
                let r: Res<()> = async {
                    let row = pool
                        .with(async |c: &Conn| Ok(c.client.query_opt(&c.claim, &[&id]).await?))
                        .await?;
                    let Some(row) = row else { return Ok(()) };
                    let (tenant, context): (i64, Jsonb) = (row.get(1), row.get(2));
                    let (mask, report) = check(&http, &spec, &context.0).await?;
                    pool.with(async |c: &Conn| {
                        Ok(c.client
                            .execute(&c.done, &[&tenant, &mask, &spec.keys, &id, &report])
                            .await?)
                    })
                    .await?;
                    Ok(())
                }
                .await;
                if let Err(e) = r {
                    eprintln!("run {id}: {e}");
                }
            }
        });
    }
    let mut redis = redis_conn().await?;
    loop {
        for id in pop(&mut redis, conc).await? {
            tx.send(id).await?;
        }
    }
}

/// Claims per popped batch; completions that came up while the last commit ran go out as one.
async fn work_batch(conc: usize) -> Res<()> {
    let spec = Arc::new(report::Spec::load()?);
    let http = Arc::new(http::Http::new(&env::var("PROVIDER_URL")?)?);
    let (tx, rx) = mpsc::unbounded_channel::<Done>();
    let rx = Arc::new(AsyncMutex::new(rx));
    let max = var("FLOOR_MAX_BATCH", 128);
    for _ in 0..var("FLOOR_COMPLETERS", 2) {
        let client = pg().await?;
        let stmt = client.prepare(DONE).await?;
        let (rx, spec) = (rx.clone(), spec.clone());
        tokio::spawn(async move {
            loop {
                let mut batch = Vec::with_capacity(max);
                rx.lock().await.recv_many(&mut batch, max).await;
                // one row may be upserted once per statement; a fixed order keeps two completers from a deadlock
                let mut masks: Vec<(i64, i64)> = batch.iter().map(|d| (d.tenant, d.mask)).collect();
                masks.sort_by_key(|m| m.0);
                masks.dedup_by_key(|m| m.0);
                let (tenants, masks): (Vec<i64>, Vec<i64>) = masks.into_iter().unzip();
                let (ids, reports): (Vec<i64>, Vec<&Jsonb>) =
                    batch.iter().map(|d| (d.id, &d.report)).unzip();
                if let Err(e) = client
                    .execute(&stmt, &[&tenants, &masks, &spec.keys, &ids, &reports])
                    .await
                {
                    eprintln!("completion: {e}");
                }
            }
        });
    }
    let sem = Arc::new(Semaphore::new(conc));
    let mut fetchers = Vec::new();
    for _ in 0..var("FLOOR_FETCHERS", 2) {
        let client = pg().await?;
        let stmt = client.prepare(CLAIM).await?;
        let mut redis = redis_conn().await?;
        let (sem, tx, spec, http) = (sem.clone(), tx.clone(), spec.clone(), http.clone());
        let min = var("FLOOR_MIN_CLAIM", 1).min(conc / 2).max(1);
        let fetch_max = (conc / 2).max(1);
        fetchers.push(tokio::spawn(async move {
            loop {
                let mut permits = sem.clone().acquire_many_owned(min as u32).await?;
                while permits.num_permits() < fetch_max {
                    match sem.clone().try_acquire_owned() {
                        Ok(p) => permits.merge(p),
                        Err(_) => break,
                    }
                }
                let ids = pop(&mut redis, permits.num_permits()).await?;
                let rows = client.query(&stmt, &[&ids]).await?;
                for row in rows {
                    let run = Claimed {
                        id: row.get(0),
                        tenant: row.get(1),
                        context: row.get(2),
                    };
                    let permit = permits
                        .split(1)
                        .expect("popped at most as many as permitted");
                    let (tx, spec, http) = (tx.clone(), spec.clone(), http.clone());
                    tokio::spawn(async move {
                        match check(&http, &spec, &run.context.0).await {
                            Ok((mask, report)) => {
                                let _ = tx.send(Done {
                                    id: run.id,
                                    tenant: run.tenant,
                                    mask,
                                    report,
                                    _permit: permit,
                                });
                            }
                            Err(e) => eprintln!("run {}: {e}", run.id),
                        }
                    });
                }
            }
            #[allow(unreachable_code)]
            Res::Ok(())
        }));
    }
    for f in fetchers {
        f.await??;
    }
    Ok(())
}

/// Enqueuer protocol (see bench/README.md): range A B | single N | bulk N | stdin
async fn enqueue(args: &[String]) -> Res<()> {
    let client = pg().await?;
    let new = client.prepare("SELECT new_runs($1, $2)").await?;
    let mut redis = redis_conn().await?;
    let num = |i: usize| -> Res<i64> { Ok(args.get(i).ok_or("missing argument")?.parse()?) };
    async fn push(redis: &mut redis::aio::MultiplexedConnection, ids: &[i64]) -> Res<()> {
        let mut cmd = redis::cmd("LPUSH");
        cmd.arg("jobs");
        for id in ids {
            cmd.arg(format!("{{\"operation_run_id\": {id}}}"));
        }
        Ok(cmd.query_async::<()>(redis).await?)
    }
    let t0 = Instant::now();
    match args[0].as_str() {
        "range" => {
            for chunk in (num(1)?..=num(2)?).collect::<Vec<_>>().chunks(1000) {
                push(&mut redis, chunk).await?;
            }
        }
        "single" | "bulk" => {
            let step = if args[0] == "bulk" { 1000 } else { 1 };
            for i in (0..num(1)?).step_by(step) {
                let rows = client.query(&new, &[&(step as i64), &i]).await?;
                push(
                    &mut redis,
                    &rows.iter().map(|r| r.get(0)).collect::<Vec<i64>>(),
                )
                .await?;
            }
        }
        "stdin" => {
            use tokio::io::AsyncBufReadExt;
            let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
            while let Some(l) = lines.next_line().await? {
                let t = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
                push(&mut redis, &[l.trim().parse()?]).await?;
                println!("{t:.6}");
            }
        }
        m => return Err(format!("unknown mode {m}").into()),
    }
    println!("{{\"seconds\": {}}}", t0.elapsed().as_secs_f64());
    Ok(())
}

async fn run() -> Res<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    if args.is_empty() {
        return Err("usage: floor work | range A B | single N | bulk N | stdin".into());
    }
    if args[0] != "work" {
        return enqueue(&args).await;
    }
    let conc = var("CONCURRENCY", 64);
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        r = async { if var("FLOOR_BATCH", 0) == 1 { work_batch(conc).await } else { work_single(conc).await } } => r,
        _ = term.recv() => Ok(()),
    }
}

fn main() {
    let threads = var("FLOOR_THREADS", 2);
    let rt = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    } else {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
    }
    .expect("runtime");
    let r = rt.block_on(run());
    rt.shutdown_timeout(Duration::from_millis(50));
    if let Err(e) = r {
        eprintln!("floor: {e}");
        std::process::exit(1);
    }
}
