//! The command line as a person meets it.

use std::process::Command;

fn help(args: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_coordinator");
    let output = Command::new(program).args(args).arg("--help").output().expect("it starts");
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).expect("help is text")
}

#[test]
fn every_command_shows_an_example_of_itself() {
    let commands = ["train", "start", "submit", "jobs", "status", "logs", "stop", "checkpoints"];
    let overview = help(&[]);
    for command in commands {
        let text = help(&[command]);
        let example = format!("coordinator {command}");
        let shown = text.lines().any(|line| line.trim_start().starts_with(&example));
        assert!(text.contains("Example") && shown, "{text}");
        assert!(overview.contains(command), "{overview}");
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for args in [&["train"][..], &["frobnicate"], &["train", "x.toml", "--workers", "0"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_coordinator")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("error:"), "{args:?}");
    }
}
