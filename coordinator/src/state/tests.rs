//! The state directory: who may use it, and what is said when it can not be used.

use crate::disk::recorder::{Fault, FaultKind, Recorder};
use crate::disk::sweep::{folder, needless_syncs, survives_faults, sweep};

use super::*;

#[test]
fn the_token_is_made_once_and_only_its_owner_may_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(&folder.path().join("a/b")).unwrap();
    let token = state.token().unwrap();
    assert_eq!(state.token().unwrap(), token);
    assert_eq!(read_token(&state.token_path()).unwrap(), token);
    let mode = state.token_path().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_exposed_or_damaged_token_is_refused_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    state.token().unwrap();
    let path = state.token_path();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(state.token().unwrap_err().to_string().contains("chmod 600"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, "not a token").unwrap();
    assert!(state.token().unwrap_err().to_string().contains("delete it"));
}

#[test]
fn a_second_coordinator_is_kept_out_until_the_first_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let first = StateDir::open(folder.path()).unwrap();
    let refused = StateDir::open(folder.path()).unwrap_err();
    assert!(refused.to_string().contains("in use by another coordinator"), "{refused}");
    drop(first);
    StateDir::open(folder.path()).unwrap();
}

#[test]
fn a_file_in_place_of_the_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    std::fs::write(&path, "x").unwrap();
    let refused = StateDir::open(&path).unwrap_err().to_string();
    assert!(refused.contains("is a file") && refused.contains("--state"), "{refused}");
    let below = StateDir::open(&path.join("deeper")).unwrap_err().to_string();
    assert!(below.contains("--state"), "{below}");
}

#[test]
fn the_address_is_published_and_withdrawn() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    state.publish_address(SocketAddr::from(([127, 0, 0, 1], 7))).unwrap();
    let path = address_path(state.root());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "127.0.0.1:7\n");
    state.withdraw_address();
    assert!(!path.exists());
}

/// A token as something that can be promised.
fn number(token: &Token) -> u64 {
    u64::from_str_radix(&token.reveal()[..16], 16).unwrap()
}

/// Starts and listens.
fn listen(recorder: &Recorder, promised: &[u64]) -> Result<(), String> {
    let text = |error: StateError| error.to_string();
    let state = StateDir::open(&recorder.root().join("state")).map_err(text)?;
    let left = std::fs::read_to_string(address_path(state.root()));
    if left.as_ref().is_ok_and(|left| left != "127.0.0.1:7400\n") {
        return Err(format!("half an address: {left:?}"));
    }
    let token = state.token().map_err(text)?;
    if promised.iter().any(|&earlier| earlier != number(&token)) {
        return Err("workers were given another token".to_owned());
    }
    recorder.promise(number(&token));
    let address = SocketAddr::from(([127, 0, 0, 1], 7400));
    state.publish_address(address).map_err(text)?;
    let found = std::fs::read_to_string(address_path(state.root())).map_err(|e| e.to_string())?;
    if found == format!("{address}\n") { Ok(()) } else { Err(found) }
}

#[test]
fn token_and_address_survive_crashes_and_failing_disks() {
    let place = folder();
    let recorder = Recorder::watch(place.path());
    listen(&recorder, &[]).unwrap();
    let recording = recorder.recording();
    let swept = sweep(&recording, 1, &listen).unwrap();
    assert!(swept.states > 20, "{swept:?}");
    // A first start syncs the directory when it makes it, and once more as every start does. That the address is there may
    // be forgotten: the next start publishes it anew.
    assert_eq!(needless_syncs(&recording, 0, &listen), ["", "state", "state", "", "state"]);
    for kind in [FaultKind::Io, FaultKind::Full] {
        let work = |recorder: &Recorder, fault: Option<Fault>| {
            recorder.fail(fault.unwrap());
            let listened = listen(recorder, &[]);
            let named = listened.as_ref().err().is_none_or(|text| text.contains("--state"));
            assert!(named, "{listened:?}");
            listened
        };
        assert!(survives_faults(&work, kind, 1, &listen) > 5);
    }
}
