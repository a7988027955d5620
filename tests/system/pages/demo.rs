//! `verifyd demo --keep`, as a newcomer starts it.

use crate::pages::person::Person;
use reqwest::Method;
use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use test_support::ends_with_test::ends_with_test;

/// A demo that ends with its test.
pub struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Its standard error.
    remarks: NamedTempFile,
    /// The link that logs in.
    pub link: String,
    /// `http://127.0.0.1:…`
    pub base: String,
}

impl Demo {
    pub fn start() -> Self {
        let remarks = NamedTempFile::new().unwrap();
        let mut child = ends_with_test("KILL")
            .arg(env!("CARGO_BIN_EXE_verifyd"))
            .args(["demo", "--keep", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(remarks.reopen().unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let link = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.find("http://").map(|at| line[at..].trim().to_owned()))
            .expect("the demo prints its address");
        let base = link.split("/login").next().unwrap().to_owned();
        Self {
            child,
            lines,
            remarks,
            link,
            base,
        }
    }

    pub fn token(&self) -> &str {
        self.link.split_once("#token=").unwrap().1
    }

    /// As Ctrl-C does. The exit code.
    pub fn interrupt(&mut self) -> Option<i32> {
        let sent = Command::new("kill")
            .args(["-s", "INT", &self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(180) {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the demo does not end");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.lines.by_ref().for_each(drop);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_keeps_its_pages_open_full_of_data() {
    let mut demo = Demo::start();
    let token = demo.token().to_owned();
    let remarks = std::fs::read_to_string(demo.remarks.path()).unwrap();
    assert!(
        remarks.contains("so that the pages have a past"),
        "{remarks}"
    );
    let person = Person::logged_in(&demo.base, &token).await;
    let page = async |path: &str| person.page(path).await;
    let overview = page("/").await;
    assert!(overview.contains("are blocked"), "{overview}");
    assert!(overview.contains("1 acknowledged"), "{overview}");
    assert!(overview.contains("bar-failed"), "{overview}");
    let connections = page("/connections").await;
    // Several runs of each, with changes in between.
    assert!(connections.matches("class=\"cell is-").count() >= 60);
    assert!(connections.contains("Valley Builders"));
    assert!(page("/workers").await.contains("Alive"));
    assert!(page("/runs").await.contains("rel=\"next\""));
    let changed = page("/connections/3").await;
    let (_, run) = changed.split_once("href=\"/runs/").unwrap();
    let run = page(&format!("/runs/{}", run.split('"').next().unwrap())).await;
    assert!(run.contains("change-changed"), "{run}");
    // The API is there, too.
    let list = person.request(Method::GET, "/v1/runs").bearer_auth(&token);
    assert_eq!(list.send().await.unwrap().status(), 200);
    assert_eq!(demo.interrupt(), Some(0));
}
