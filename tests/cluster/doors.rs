//! Who may come in: addresses, tokens, protocol versions, names, and the lock on a state directory.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use cluster_tests::{
    ControlPlane, Ended, JobFile, Running, Signal, Train, coordinator, digits_folder, join,
};
use proto::wire::v1::operators_client::OperatorsClient;
use proto::wire::v1::workers_server::{Workers, WorkersServer};
use proto::wire::{Credentials, Guard, PROTOCOL_VERSION, Token, is_version_refusal, v1};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::bits::model_sha256;
use crate::refusals::{
    LIMIT, NETWORK, STATE, TOKEN, USAGE, VERSION, copy_folder, damage, only_error, refused,
};

fn start(listen: &str, state: &Path) -> Ended {
    let mut command = coordinator(&["start", "--listen", listen, "--state"]);
    command.arg(state);
    Running::spawn(command).finish(LIMIT)
}

/// What a worker's log says: one error and nothing else that alarms.
fn worker_error(command: Command, code: i32, words: &[&str]) {
    let ended = Running::spawn(command).finish(LIMIT);
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    let alarms = |line: &&str| line.contains(" ERROR ") || line.contains(" WARN ");
    let errors: Vec<&str> = ended.stderr.lines().filter(alarms).collect();
    let [line] = errors[..] else { panic!("one error: {}", ended.stderr) };
    assert!(line.contains(" ERROR ") && ended.stderr.ends_with(&format!("{line}\n")), "{line}");
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}

fn write_token(path: &Path, token: &Token) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, token.reveal()).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_port_that_is_taken_is_refused_before_the_state_directory_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let ended = start(&address, &state);
    refused(&ended, NETWORK, &["listening on", &address, "the port is taken", "--listen"]);
    assert!(!state.exists());
}

#[test]
fn an_address_that_others_can_reach_needs_a_person_to_allow_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let words = ["listening on 0.0.0.0:0", "not encrypted", "--insecure"];
    refused(&start("0.0.0.0:0", &state), NETWORK, &words);
    refused(&start("[::]:0", &state), NETWORK, &["listening on [::]:0", "--insecure"]);
    assert!(!state.exists());
}

#[test]
fn two_coordinators_on_one_state_directory_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut plane = ControlPlane::start(&state);
    let words = ["in use by another coordinator", state.to_str().unwrap(), "--state"];
    refused(&start("127.0.0.1:0", &state), STATE, &words);
    let job = JobFile::digits().write(folder.path());
    refused(&Train::new(&job, &state).spawn().finish(LIMIT), STATE, &words);
    // The first one is unharmed, and found where it was.
    let _worker = plane.worker("w1");
    assert!(plane.says(&["status"]).contains("w1"));
}

#[test]
fn another_token_is_refused_at_every_door() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().write(folder.path());
    let job = job.to_str().unwrap();
    let plane = ControlPlane::start(&folder.path().join("state"));
    let other = folder.path().join("other-token");
    write_token(&other, &Token::from_random([7; 16]));
    let other = other.to_str().unwrap();

    let mut joining = plane.join("w1");
    joining.args(["--token-file", other]);
    worker_error(joining, TOKEN, &["join token was refused", "--token-file", "CLUSTER_TOKEN"]);
    for command in [&["jobs"][..], &["submit", job], &["stop", "digits-1"]] {
        let mut refusal = plane.command(command);
        refusal.args(["--token-file", other]);
        let ended = Running::spawn(refusal).finish(LIMIT);
        refused(&ended, TOKEN, &["join token was refused", "--token-file"]);
    }
    assert!(plane.says(&["status"]).contains("no jobs"), "nothing came in");
}

#[test]
fn a_token_file_without_a_token_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(&folder.path().join("state"));
    let empty = folder.path().join("empty");
    write_token(&empty, &Token::from_random([7; 16]));
    std::fs::write(&empty, "not a token\n").unwrap();
    let missing = folder.path().join("missing");
    for (file, words) in
        [(&empty, ["32 hexadecimal digits", "copy"]), (&missing, ["No such file", "copy"])]
    {
        let file = file.to_str().unwrap();
        let mut joining = plane.join("w1");
        joining.args(["--token-file", file]);
        worker_error(joining, TOKEN, &[&words[..], &[file]].concat());
        let mut listing = plane.command(&["jobs"]);
        listing.args(["--token-file", file]);
        let ended = Running::spawn(listing).finish(LIMIT);
        refused(&ended, TOKEN, &[&words[..], &[file]].concat());
    }
}

#[test]
fn a_second_worker_of_one_name_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut plane = ControlPlane::start(&folder.path().join("state"));
    let first = plane.worker("w1");
    worker_error(plane.join("w1"), USAGE, &["a worker named w1 is already here", "another name"]);
    let status = plane.says(&["status"]);
    assert_eq!(status.matches("w1").count(), 1, "{status}");
    // Once it has left, its name is free.
    first.signal(Signal::TERM);
    assert_eq!(first.finish(LIMIT).code, Some(0));
    plane.running.wait_for(&["worker w1 left"], LIMIT);
    assert!(plane.says(&["status"]).contains("no workers"));
}

#[test]
fn a_coordinator_that_is_not_there_is_named_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    write_token(&state.join("token"), &Token::from_random([7; 16]));
    let address = unanswered();
    let mut joining = join(&address, &state, "w1");
    joining.args(["--wait", "0"]);
    worker_error(joining, NETWORK, &["reach the coordinator at", &address, "coordinator start"]);
    let mut listing = coordinator(&["jobs", "--coordinator", &address, "--state"]);
    listing.arg(&state);
    let ended = Running::spawn(listing).finish(LIMIT);
    refused(&ended, NETWORK, &["connecting to the coordinator", &address, "coordinator start"]);
    // No address was left behind either.
    let mut listing = coordinator(&["jobs", "--state"]);
    listing.arg(&state);
    let ended = Running::spawn(listing).finish(LIMIT);
    refused(&ended, NETWORK, &["no address in", "coordinator start", "--coordinator"]);
    // A slip of the finger is not looked for.
    let ended = Running::spawn(join("127.0.0.1", &state, "w1")).finish(LIMIT);
    only_error(&ended, USAGE, &["'127.0.0.1'", "a host and a port"]);
    let mut listing = coordinator(&["jobs", "--coordinator", "127.0.0.1", "--state"]);
    listing.arg(&state);
    let ended = Running::spawn(listing).finish(LIMIT);
    refused(&ended, USAGE, &["connecting to 127.0.0.1", "host:port"]);
}

#[test]
fn a_worker_with_another_dataset_is_refused_and_the_job_waits_for_a_right_one() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 1").write(folder.path());
    let alone = Train::new(&job, &folder.path().join("alone")).spawn().finish(LIMIT);
    let data = folder.path().join("data");
    copy_folder(&digits_folder(), &data);
    damage(&data.join("train-images-idx3-ubyte"), |bytes| bytes[500] ^= 1);

    let mut plane = ControlPlane::start(&folder.path().join("state"));
    let _right = plane.worker("right");
    let mut wrong = plane.join("wrong");
    wrong.arg("--data").arg(&data);
    let mut wrong = Running::spawn(wrong);
    plane.wait_for_worker("wrong");
    plane.submit(&job, 2);
    let words = ["worker wrong refused", "fingerprint", "coordinator's is", "copy the dataset"];
    let (line, _) = plane.running.wait_for(&words, LIMIT);
    assert!(line.contains(data.to_str().unwrap()) && line.contains("waiting"), "{line}");
    wrong.wait_for(&["fingerprint", "copy the dataset again"], LIMIT);
    // The right one is on its way back from the generation that could not begin.
    plane.wait_to_say(&["jobs"], &["waiting for 2 workers", "1 more refused"]);

    let _second = plane.worker("second");
    plane.running.wait_for(&["job digits-1 finished", &model_sha256(&alone)], LIMIT);
}

/// An address of loopback on which connections are refused.
fn unanswered() -> String {
    let listener = TcpListener::bind("127.0.0.77:0").unwrap();
    // Programs of other tests listen on 127.0.0.1: the port stays free after this.
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn another_protocol_version_is_refused_with_both_numbers_and_who_is_to_upgrade() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let plane = ControlPlane::start(&state);
    let token: Token = std::fs::read_to_string(state.join("token")).unwrap().parse().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", plane.address)).unwrap();
    let channel = endpoint.connect().await.unwrap();
    for (theirs, upgrade) in [(PROTOCOL_VERSION + 1, "the coordinator"), (0, "the caller")] {
        let credentials = Credentials::speaking(&token, theirs);
        let mut client = OperatorsClient::with_interceptor(channel.clone(), credentials);
        let refusal = client.status(v1::StatusRequest {}).await.unwrap_err();
        assert!(is_version_refusal(&refusal), "{refusal:?}");
        for word in [
            format!("speaks {theirs}"),
            format!("this coordinator {PROTOCOL_VERSION}"),
            format!("upgrade {upgrade}"),
        ] {
            assert!(refusal.message().contains(&word), "{word:?}: {refusal:?}");
        }
    }
    let mut client = OperatorsClient::with_interceptor(channel, Credentials::new(&token));
    client.status(v1::StatusRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_version_ends_with_the_coordinators_words() {
    let folder = tempfile::tempdir().unwrap();
    let token = Token::from_random([7; 16]);
    write_token(&folder.path().join("token"), &token);
    let mut guard = Guard::new(token);
    let older = move |mut request: Request<()>| {
        // As if the worker's release were an older one.
        request.metadata_mut().insert("cluster-protocol", 0.into());
        tonic::service::Interceptor::call(&mut guard, request)
    };
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap().to_string();
    let server = Server::builder().add_service(WorkersServer::with_interceptor(Nobody, older));
    let serving = tokio::spawn(server.serve_with_incoming(incoming));
    let joining = join(&address, folder.path(), "w1");
    let words = ["protocol version mismatch", "speaks 0", "coordinator 1", "upgrade the caller"];
    let ended = tokio::task::spawn_blocking(move || worker_error(joining, VERSION, &words));
    ended.await.unwrap();
    serving.abort();
}

/// A service that no call reaches.
struct Nobody;

#[tonic::async_trait]
impl Workers for Nobody {
    type JoinStream = Streaming<v1::Plan>;
    type DownloadCheckpointStream = Streaming<v1::CheckpointChunk>;

    async fn join(
        &self,
        _: Request<Streaming<v1::Report>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        Err(Status::unimplemented("no call comes here"))
    }

    async fn upload_checkpoint(
        &self,
        _: Request<Streaming<v1::CheckpointChunk>>,
    ) -> Result<Response<v1::CheckpointReceipt>, Status> {
        Err(Status::unimplemented("no call comes here"))
    }

    async fn download_checkpoint(
        &self,
        _: Request<v1::CheckpointRequest>,
    ) -> Result<Response<Self::DownloadCheckpointStream>, Status> {
        Err(Status::unimplemented("no call comes here"))
    }
}
