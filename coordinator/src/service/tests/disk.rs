//! A disk that fails under a coordinator at work: it ends in good order, and nothing is done that is not recorded.

use crate::core::Policy;
use crate::disk::recorder::{Fault, FaultKind, Recorder};
use crate::local::LocalError;

use super::fake::FakeWorker;
use super::*;

#[tokio::test]
async fn a_journal_that_fails_ends_the_coordinator_before_anything_is_done_about_the_decision() {
    // The write of a record, and its fsync.
    for at in [0, 1] {
        let rig = Rig::start().await;
        let mut worker = FakeWorker::join(&rig, "w1").await;
        let recorder = Recorder::watch(rig.folder.path());
        let journal = rig.local.state.journal_path();
        recorder.fail(Fault { at, kind: FaultKind::Io, file: "journal" });
        let submitted = rig.local.submit(spec(), 1, Policy::default(), false).await;
        assert!(submitted.is_err(), "{submitted:?}");
        assert!(recorder.heal());
        let next = worker.plans.message().await;
        assert!(!matches!(next, Ok(Some(_))), "no plan may follow: {next:?}");
        drop(worker);
        let Rig { local, folder, .. } = rig;
        let error = local.shut_down().await.unwrap_err();
        assert!(matches!(error, LocalError::Driver(_)), "{error}");
        let text = error.to_string();
        let journal = journal.to_str().unwrap();
        assert!(text.contains(journal) && text.contains("check the disk"), "{text}");
        drop(recorder);
        // The next one starts from what was recorded, whether or not that decision is a part of it.
        let rig = Rig::start_in(folder).await;
        rig.local.submit(spec(), 1, Policy::default(), false).await.unwrap();
        FakeWorker::join(&rig, "w1").await.train().await;
    }
}
