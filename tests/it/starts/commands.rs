//! Commands that look at the bucket run anywhere, also where Kubernetes has put the names of a Service called
//! zombi into the environment; the server and the commands about settings refuse such names.

use super::{USAGE, says};
use testing::{
    Sent, TestServer,
    process::Start,
    s3::{ACCESS_KEY, SECRET_KEY},
    server::BUCKET,
};

/// What a Service called zombi gives every pod, and settings that are the server's alone, right or wrong.
const INJECTED: [(&str, &str); 18] = [
    ("ZOMBI_PORT", "tcp://10.0.0.1:8080"),
    ("ZOMBI_ADMIN_PORT", "tcp://10.0.0.1:9090"),
    ("ZOMBI_SERVICE_HOST", "10.0.0.1"),
    ("ZOMBI_SERVICE_PORT", "8080"),
    ("ZOMBI_SERVICE_PORT_HTTP", "8080"),
    ("ZOMBI_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
    ("ZOMBI_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ("ZOMBI_PORT_8080_TCP_PORT", "8080"),
    ("ZOMBI_PORT_8080_TCP_PROTO", "tcp"),
    ("ZOMBI_HEADLESS_SERVICE_HOST", "None"),
    ("ZOMBI_FLUSH_INTERVAL_SECS", "often"),
    ("ZOMBI_WHATEVER", "1"),
    // And a Service called zombi-s3.
    ("ZOMBI_S3_SERVICE_HOST", "10.0.0.2"),
    ("ZOMBI_S3_SERVICE_PORT", "9000"),
    ("ZOMBI_S3_SERVICE_PORT_API", "9000"),
    ("ZOMBI_S3_PORT", "tcp://10.0.0.2:9000"),
    ("ZOMBI_S3_PORT_9000_TCP", "tcp://10.0.0.2:9000"),
    ("ZOMBI_S3_PORT_9000_TCP_ADDR", "10.0.0.2"),
];

fn injected(start: Start) -> Start {
    INJECTED.iter().fold(start, |start, (name, value)| start.env(name, value))
}

#[tokio::test]
async fn commands_about_the_bucket_let_names_pass_that_are_not_theirs() {
    let mut z = TestServer::start_tiered(&[]).await;
    Sent::default().append(&z, "t", 1, 100).await;
    z.flush_and_evict().await;
    z.kill().await;
    let endpoint = z.s3.as_ref().unwrap().endpoint();
    let key = z.objects("segments/")[0].0.clone();
    let looks: [(&[&str], &str); 4] = [
        (&["verify", "--list"], &key),
        (&["verify"], ""),
        (&["segment", "cat", &key], "\"offset\":99"),
        (&["manifest", "show"], "store_id"),
    ];
    for (words, expected) in looks {
        let what = words.join(" ");
        let ended = injected(Start::command(words).with_bucket(&endpoint)).ended().await;
        says(&what, &ended, 0, &[expected]);
        // The bucket from the environment, as in a pod.
        let from_environment =
            Start::command(words).env("ZOMBI_S3_BUCKET", BUCKET).env("ZOMBI_S3_ENDPOINT", &endpoint);
        let from_environment =
            from_environment.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        let ended = injected(from_environment.clone()).ended().await;
        says(&what, &ended, 0, &[expected]);
        // Names that are theirs are read, and must be right.
        for (name, value) in [("ZOMBI_S3_ATTEMPTS", "often"), ("ZOMBI_S3_BUKKET", "events")] {
            let ended = injected(from_environment.clone().env(name, value)).ended().await;
            says(&what, &ended, USAGE, &[name]);
        }
    }
}

#[tokio::test]
async fn the_server_and_the_commands_about_settings_refuse_them_by_name() {
    let volume = tempfile::tempdir().unwrap();
    let serve = Start::serve(&volume.path().join("db"));
    let starts = [
        ("serve", serve),
        ("config check", Start::command(&["config", "check"])),
        ("config print", Start::command(&["config", "print"])),
    ];
    for (what, start) in starts {
        for &(name, value) in INJECTED[..6].iter().chain(&INJECTED[12..]) {
            let ended = start.clone().env(name, value).ended().await;
            says(what, &ended, USAGE, &[name, "enableServiceLinks"]);
        }
        let ended = start.env("ZOMBI_WHATEVER", "1").ended().await;
        says(what, &ended, USAGE, &["ZOMBI_WHATEVER"]);
    }
    assert!(!volume.path().join("db").exists());
}
