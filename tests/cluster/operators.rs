//! The commands of a person who runs a cluster: workers join, jobs are submitted, watched, stopped and gone on with.

use std::path::Path;

use cluster_tests::{ControlPlane, Ended, JobFile, Running, Train};

use crate::bits::model_sha256;
use crate::refusals::{DATA, LIMIT, USAGE, job_on, refused};

/// The digest that `train` ends with.
fn trained(job: &Path, state: &Path) -> String {
    model_sha256(&Train::new(job, state).spawn().finish(LIMIT))
}

/// Follows the log until the job is over.
pub(crate) fn follow(plane: &ControlPlane, job: &str) -> Ended {
    let ended = Running::spawn(plane.command(&["logs", job, "-f"])).finish(LIMIT);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended
}

#[test]
fn a_job_is_submitted_followed_to_its_end_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().write(folder.path());
    let expected = trained(&job, &folder.path().join("train"));
    let mut plane = ControlPlane::start(&folder.path().join("state"));
    assert!(plane.says(&["jobs"]).contains("no jobs; add one with"));
    let said = plane.submit(&job, 2);
    assert!(said.contains("digits-1 submitted") && said.contains("logs digits-1 -f"), "{said}");
    let jobs = plane.says(&["jobs"]);
    assert!(jobs.contains("waiting for 2 workers, 0 have joined"), "{jobs}");
    // Followed from before it starts.
    let mut followed = Running::spawn(plane.command(&["logs", "digits-1", "-f"]));
    followed.wait_for(&["digits-1 submitted"], LIMIT);
    let _first = plane.worker("w1");
    let status = plane.says(&["status"]);
    assert!(status.contains("1 has joined") && status.contains("idle"), "{status}");
    let _second = plane.worker("w2");
    let followed = followed.finish(LIMIT);
    assert_eq!(followed.code, Some(0), "{}", followed.stderr);
    let finished = followed.stdout.lines().last().unwrap();
    let digest = format!("model sha256 {expected}");
    assert!(finished.contains("digits-1 finished") && finished.ends_with(&digest), "{finished}");
    // Followed or read afterwards, the log is the same.
    for again in [&["logs", "digits-1"][..], &["logs", "digits-1", "-f"]] {
        assert_eq!(plane.says(again), followed.stdout);
    }
    let jobs = plane.says(&["jobs"]);
    let row = jobs.lines().find(|line| line.starts_with("digits-1")).unwrap();
    for word in ["finished", "68/68", "of 360)"] {
        assert!(row.contains(word), "{word:?} is not in: {row}");
    }
    let status = plane.says(&["status"]);
    assert!(status.contains("w1") && status.contains("w2"), "{status}");
    let listed = plane.says(&["checkpoints", "digits-1"]);
    for word in ["STEP", "ACCURACY", "step-00000023", "step-00000068", "best"] {
        assert!(listed.contains(word), "{word:?} is not in:\n{listed}");
    }
    let again = plane.submit(&job, 2);
    assert!(
        again.contains("digits-1 has finished already") && again.contains("--fresh"),
        "{again}"
    );
}

#[test]
fn a_stopped_job_is_gone_on_with_by_the_same_workers_to_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 12").write(folder.path());
    let expected = trained(&job, &folder.path().join("train"));
    let mut plane = ControlPlane::start(&folder.path().join("state"));
    let _crew = [plane.worker("w1"), plane.worker("w2"), plane.worker("w3")];
    plane.submit(&job, 3);
    plane.running.wait_for(&["epoch 1 of 12"], LIMIT);
    let said = plane.says(&["stop", "digits-1"]);
    assert!(said.contains("stops after its current step") && said.contains("submit"), "{said}");
    let stopped = follow(&plane, "digits-1").stdout;
    let last = stopped.lines().last().unwrap();
    assert!(last.contains("digits-1 stopped after step"), "{stopped}");
    let step = last.split("after step ").nth(1).unwrap().split(';').next().unwrap();
    let jobs = plane.says(&["jobs"]);
    assert!(jobs.contains("stopped") && jobs.contains(&format!(" {step}/270 ")), "{jobs}");
    let listed = plane.says(&["checkpoints", "digits-1"]);
    assert!(listed.lines().last().unwrap().starts_with(step), "{step}:\n{listed}");
    // All three are at that step, and none has gone.
    let status = plane.says(&["status"]);
    let crew: Vec<Vec<&str>> = status
        .lines()
        .filter(|line| line.starts_with('w'))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(crew.len(), 3, "{status}");
    assert!(crew.iter().all(|row| row[4] == "-" && row[5] == step), "{status}");

    let said = plane.submit(&job, 2);
    assert!(said.contains(&format!("digits-1 goes on from step {step}")), "{said}");
    let finished = follow(&plane, "digits-1").stdout;
    assert!(finished.lines().last().unwrap().ends_with(&expected), "{finished}");
}

#[test]
fn jobs_are_run_one_after_the_other_in_the_order_of_their_submission() {
    let folder = tempfile::tempdir().unwrap();
    let long = JobFile::digits().with("epochs = 3", "epochs = 6").write(folder.path());
    let other_folder = tempfile::tempdir().unwrap();
    let short = JobFile::digits().with("name = \"digits\"", "name = \"other\"");
    let short = short.with("epochs = 3", "epochs = 1").write(other_folder.path());
    let mut plane = ControlPlane::start(&folder.path().join("state"));
    plane.submit(&long, 1);
    plane.submit(&short, 1);
    let refusal = Running::spawn(plane.command(&["submit", long.to_str().unwrap()])).finish(LIMIT);
    refused(&refusal, 1, &["digits-1", "has not ended", "logs digits-1 -f"]);
    let jobs = plane.says(&["jobs"]);
    assert!(jobs.contains("waiting for 1 worker"), "{jobs}");
    assert!(jobs.contains("waiting for job digits-1 to end"), "{jobs}");
    let _crew = plane.worker("w1");
    follow(&plane, "other-1");
    let log = plane.says(&["logs", "digits-1"]);
    assert!(log.lines().last().unwrap().contains("digits-1 finished"), "{log}");
    let jobs = plane.says(&["jobs"]);
    assert_eq!(jobs.matches(" finished after step ").count(), 2, "{jobs}");
}

#[test]
fn commands_that_make_no_sense_are_refused_with_what_to_do_instead() {
    let folder = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(&folder.path().join("state"));
    for command in ["logs", "stop", "checkpoints"] {
        let ended = Running::spawn(plane.command(&[command, "digits-7"])).finish(LIMIT);
        refused(&ended, USAGE, &["there is no job digits-7", "coordinator jobs"]);
    }
    // A job file's mistakes are found on the way in, with the same codes.
    let job = JobFile::digits().with("slices = 8", "slicse = 8").write(folder.path());
    let ended = Running::spawn(plane.command(&["submit", job.to_str().unwrap()])).finish(LIMIT);
    refused(&ended, USAGE, &["line 15", "did you mean `slices`?"]);
    let ended = Running::spawn(plane.command(&["submit", "nothing.toml"])).finish(LIMIT);
    refused(&ended, USAGE, &["reading the job file nothing.toml", "check the path"]);
    let job = job_on(&folder.path().join("nowhere")).write(folder.path());
    let ended = Running::spawn(plane.command(&["submit", job.to_str().unwrap()])).finish(LIMIT);
    refused(&ended, DATA, &["submitting", "nowhere does not exist", "check the path"]);
    let job = JobFile::digits().write(folder.path());
    let submit = ["submit", job.to_str().unwrap(), "--workers", "9"];
    let ended = Running::spawn(plane.command(&submit)).finish(LIMIT);
    refused(&ended, USAGE, &["submitting", "9 workers", "at most 8"]);
    assert!(plane.says(&["jobs"]).contains("no jobs"));
}
