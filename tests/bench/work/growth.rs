//! Whether it stays as fast as it grows: the rates of later events against those of the first million; memory
//! and start.

use super::{rate, timed};
use crate::{
    BenchOptions,
    client::get,
    data,
    process::Zombi,
    report::{Goal, Report},
};

const MILLION: usize = 1_000_000;

pub(crate) async fn run(options: &BenchOptions, report: &mut Report) {
    let name = "growth";
    if !report.wants(name) || (options.glance && options.only.is_empty()) {
        return;
    }
    let steps: &[usize] = if options.full { &[1, 10, 50] } else { &[1, 3] };
    let part = options.events(MILLION);
    let mut zombi = Zombi::tiered(options, &["hot.keep_secs=60", "hot.max_bytes=107374182400"]);
    let (mut written, mut first) = (0, None);
    for &step in steps {
        let mut append = 0.0;
        let (bytes_before, events_before) = (zombi.written_bytes(), written * part);
        while written < step {
            let lines = data::lines(written * part..(written + 1) * part);
            let ((), took) = timed(zombi.fill("t", lines.as_bytes())).await;
            (append, written) = (rate(part, took), written + 1);
        }
        let mut connection = zombi.connect().await;
        // What was written last, whichever tier has it by now.
        let path = format!("/tables/t?partition=0&offset={}", written * part / 4 - part / 4);
        let (_, took) = timed(connection.drain(&get(&path, "application/x-ndjson"))).await;
        let read = rate(part / 4, took);
        let written_bytes =
            (zombi.written_bytes() - bytes_before) / ((written * part - events_before) as f64);
        report.figure(
            &format!(
                "growth, bytes written to the disk for an event up to {} thousand",
                written * part / 1000
            ),
            "bytes",
            Goal::Known,
            written_bytes,
        );
        let (append_first, read_first) = *first.get_or_insert((append, read));
        let thousands = written * part / 1000;
        let named = |what: &str| format!("growth, {what} at {thousands} thousand");
        report.ratio(&named("append rate"), "events/s", Goal::AtLeast(0.9), vec![(append, append_first)]);
        report.ratio(&named("read rate"), "events/s", Goal::AtLeast(0.9), vec![(read, read_first)]);
        report.figure(&named("peak memory"), "MiB", Goal::AtMost(512.0), zombi.memory_mib("VmHWM"));
        let events = (written * part) as f64;
        report.figure(
            &named("bytes on the volume for an event"),
            "bytes",
            Goal::Known,
            zombi.volume_bytes() / events,
        );
        zombi.restart();
        report.figure(&named("ready after kill -9"), "s", Goal::AtMost(2.0), zombi.ready_in.as_secs_f64());
    }
    zombi.ask("POST", "/flush").await;
}
