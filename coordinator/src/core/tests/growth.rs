//! Workers that join while a job runs.

use super::*;

impl Script {
    /// The second worker that joined, a member, on a new stream.
    fn come_back(&mut self, worker: &str) -> (SessionId, Vec<Action>) {
        let (session, generation) = (SessionId(50), self.generation());
        self.beating.insert(session);
        let actions = self.tell(Event::Joined(Candidate {
            session,
            name: name(worker),
            incarnation: Incarnation([2; 16]),
            generation,
            address: "10.0.0.2:9".to_owned(),
            device_kind: "cpu".to_owned(),
            threads: 1,
            software_version: "0".to_owned(),
        }));
        (session, actions)
    }
}

/// Workers that were asked to get ready.
fn asked(actions: &[Action]) -> Vec<SessionId> {
    let sessions = actions.iter().filter_map(|action| match action {
        Action::Warm { session, .. } => Some(*session),
        _ => None,
    });
    sessions.collect()
}

fn warm(script: &mut Script, session: SessionId) -> Vec<Action> {
    script.report(session, Report::Warm { job: name("digits-1") })
}

const SEAL: Plan = Plan::Seal { attempt: Generation(0) };

#[test]
fn a_newcomer_gets_ready_first_and_is_then_taken_in_with_the_state_of_the_others() {
    let (mut script, members) = Script::running_as(waiting(2), 3);
    script.pass(1000);
    let (third, actions) = script.join_as("w3", "cpu");
    assert_eq!((asked(&actions), plans(&actions, &SEAL)), (vec![third], Vec::new()));
    let actions = warm(&mut script, third);
    assert_eq!((plans(&actions, &Plan::Pause), plans(&actions, &SEAL)), (members.to_vec(), vec![]));
    assert_eq!(plans(&script.pass(1000), &Plan::Pause), [], "asked once");
    // Nothing of the step at hand is thrown away.
    assert_eq!(plans(&script.pause(&members, 4), &SEAL), members);
    let actions = script.seal(&members, 4);
    let formed = formation(&actions).unwrap();
    assert_eq!((formed.base.step, formed.members.len(), &formed.holders[..]), (4, 3, &[0, 1][..]));
}

#[test]
fn a_pause_is_asked_for_again_when_a_stream_broke_and_a_loss_does_not_wait_for_it() {
    let (mut script, members) = Script::running_as(waiting(2), 3);
    script.pass(1000);
    let third = script.join("w3");
    warm(&mut script, third);
    script.end_stream(members[1]);
    let (session, actions) = script.come_back("w2");
    assert_eq!(plans(&actions, &Plan::Pause), [session]);
    let actions = script.complain(members[0], "w2", 4);
    assert_eq!(plans(&actions, &SEAL), [members[0], session]);
    let actions = script.seal(&[members[0], session], 3);
    assert_eq!(formation(&actions).unwrap().members.len(), 3);
}

#[test]
fn newcomers_are_taken_in_together_but_nobody_waits_long_for_a_slow_one() {
    let (mut script, members) = Script::running_as(waiting(2), 3);
    script.pass(1000);
    let (third, fourth) = (script.join("w3"), script.join("w4"));
    assert_eq!(plans(&warm(&mut script, third), &SEAL), []);
    let actions = script.pass(WARM_TOGETHER.as_millis() as u64 + 200);
    assert_eq!(plans(&actions, &Plan::Pause), members);
    script.pause(&members, 4);
    let actions = script.seal(&members, 4);
    assert_eq!(formation(&actions).unwrap().members.len(), 3);
    warm(&mut script, fourth);
}

#[test]
fn a_newcomer_that_can_not_get_ready_is_named_and_holds_nobody_up() {
    let (mut script, members) = Script::running_as(waiting(2), 3);
    script.pass(1000);
    let (third, fourth) = (script.join("w3"), script.join("w4"));
    let generation = Generation(0);
    let report = trouble(TroubleKind::TroubleDatasetUnreadable, 0, None);
    let actions = script.tell(Event::Reported { session: third, generation, report });
    assert_eq!(lines(&actions, Level::Warn), ["worker w3 can't take part: connection reset"]);
    assert_eq!(plans(&warm(&mut script, fourth), &Plan::Pause), members);
}

#[test]
fn members_out_of_reach_are_waited_for_before_going_back_to_a_checkpoint() {
    let (mut script, members) = Script::running_as(waiting(2), 3);
    for session in members {
        script.end_stream(session);
    }
    let going_back =
        |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::FindBase { .. }));
    assert!(!going_back(&script.pass(RETURN_WITHIN.as_millis() as u64)));
    assert!(going_back(&script.pass(3000)));
}

#[test]
fn a_member_that_comes_back_in_time_takes_its_seat_again() {
    let (mut script, members) = Script::running_as(waiting(2), 3);
    script.end_stream(members[1]);
    script.pass(1000);
    let generation = script.generation();
    let (session, actions) = script.come_back("w2");
    assert!(actions.contains(&Action::Admit { session, generation }), "{actions:?}");
    script.pass(5000);
    assert_eq!(lines(&script.done, Level::Warn), [""; 0], "nobody was lost");
    let members = [members[0], session];
    let actions = script.step(&members, 4);
    assert!(matches!(records(&actions)[..], [Record::Committed { step: 4, .. }]));
}

#[test]
fn a_member_that_never_heard_of_its_generation_loses_its_seat_as_soon_as_it_is_back() {
    let mut script = Script::new();
    script.submit(2);
    let members = [script.join("w1"), script.join("w2")];
    // Its stream broke under the plan, and the worker noticed it before the coordinator.
    let session = SessionId(50);
    script.beating.insert(session);
    script.beating.remove(&members[1]);
    let actions = script.tell(Event::Joined(Candidate {
        session,
        name: name("w2"),
        incarnation: Incarnation([2; 16]),
        generation: Generation(0),
        address: "10.0.0.2:9".to_owned(),
        device_kind: "cpu".to_owned(),
        threads: 1,
        software_version: "0".to_owned(),
    }));
    assert!(lines(&actions, Level::Warn)[0].contains("before it heard of generation"));
    script.seal_with(&members[..1], None);
    let actions = script.pass(100);
    let formed = formation(&actions).expect("both are here");
    assert_eq!(
        formed.members.iter().map(|member| member.session).collect::<Vec<_>>(),
        [members[0], session]
    );
}
