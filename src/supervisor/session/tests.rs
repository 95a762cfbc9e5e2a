#![allow(clippy::unwrap_used)]
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use std::sync::Arc;

use super::{metrics::Asked, pausing::Pause, *};
use crate::{
    protocol::FromVmm,
    requests::{Answer, Answers, Request, Wish},
};

/// A session whose shares have no virtiofsd, and the VMM's end of its channel.
fn with_session(test: impl FnOnce(Session<'_>, Channel)) {
    let config = VmConfig::from_toml(
        "name = \"a\"\n[kernel]\npath = \"k\"\n\
         [[shares]]\ntag = \"restart\"\nsource = \"/srv\"\n\
         [[shares]]\ntag = \"stop\"\nsource = \"/srv\"\non_failure = \"stop\"\n",
    )
    .unwrap();
    let mut signals = Signals::new(crate::requests::Requests::new().unwrap()).unwrap();
    let mut notify = Notify::new(&config, Instant::now());
    let (channel, vmm) = Channel::pair().unwrap();
    let board = Board::new(&config, "a.toml".as_ref(), "");
    let session = Session {
        config: &config,
        signals: &mut signals,
        board: &board,
        streams: None,
        notify: &mut notify,
        channel,
        vmm: Child {
            pid: 1,
            pidfd: pidfd_open(getpid(), PidfdFlags::empty()).unwrap(),
        },
        backends: Backends::default(),
        stop: Stop::new(config.lifecycle.stop_timeout),
        intent: Intent::Run,
        running: None,
        pausing: Pausing::default(),
        liveness: Liveness::default(),
        questions: Asked::new(None),
        balloon_questions: balloon::Questions::default(),
        losses: Losses::default(),
        not_ready: None,
        outcome: None,
        ended: None,
    };
    test(session, vmm);
}

#[test]
fn a_vmm_that_never_pauses_keeps_nobody_waiting() {
    with_session(|mut session, vmm| {
        while vmm.send(&FromVmm::Running, &[]).is_ok() {}
        assert!(session.hear());
        assert!(session.channel.try_receive::<FromVmm>().is_ok());
    });
}

#[test]
fn a_vmm_that_has_failed_and_stays_is_killed() {
    with_session(|mut session, vmm| {
        let failed = FromVmm::Failed {
            blame: minivmm_vmm::Blame::Host,
            message: "no".into(),
        };
        vmm.send(&failed, &[]).unwrap();
        assert!(session.hear());
        assert!(session.act(Instant::now()) > 0, "it has a deadline");
    });
}

#[test]
fn a_terminal_that_goes_away_is_one_wish_however_often_it_is_said() {
    with_session(|mut session, _vmm| {
        session.hung_up();
        session.hung_up();
        assert!(session.stop.has_begun() && !session.stop.is_killing());
        session.asked();
        assert_eq!(session.stop.due(Instant::now()), Action::End);
    });
}

fn lose(session: &mut Session<'_>, tag: &str) -> bool {
    session.share_lost(&tag.parse().unwrap());
    session.losses.end_the_run()
}

#[test]
fn an_end_that_was_forced_is_not_a_lost_shares() {
    with_session(|mut session, _vmm| {
        assert!(!lose(&mut session, "restart"), "before the guest ran");
        session.running = Some(Instant::now());
        session.asked();
        session.asked();
        assert!(!lose(&mut session, "restart"));
    });
}

#[test]
fn two_shares_that_are_lost_at_once_end_the_vm_once_and_for_good() {
    with_session(|mut session, _vmm| {
        session.running = Some(Instant::now());
        assert!(lose(&mut session, "restart") && session.stop.is_killing());
        assert!(lose(&mut session, "stop"));
        let tag = "stop".into();
        let end = session.losses.end(None, false);
        assert_eq!(end, Some(End::BackendLost { tag }));
    });
}

/// An answer, and what it gives.
fn answer() -> (Answer, Arc<Answers>) {
    let answers = Answers::new().unwrap();
    (Answer::new(0, answers.clone()), answers)
}

/// What was answered, if anything.
fn given(answers: &Answers) -> Option<bool> {
    answers.take().pop().map(|(_, outcome)| outcome.is_ok())
}

fn told(vmm: &Channel) -> Vec<ToVmm> {
    std::iter::from_fn(|| vmm.try_receive::<ToVmm>().ok()?).collect()
}

#[test]
fn a_paused_vm_that_is_to_stop_goes_on_before_its_button_is_pressed() {
    with_session(|mut session, vmm| {
        let pause = |session: &mut Session<'_>| {
            let (answer, given) = answer();
            session.pause(answer);
            given
        };
        assert_eq!(given(&pause(&mut session)), Some(false), "it does not run");
        session.running = Some(Instant::now());
        let (first, second) = (pause(&mut session), pause(&mut session));
        assert_eq!(given(&first), None);
        vmm.send(&FromVmm::Paused, &[]).unwrap();
        session.hear();
        assert_eq!((given(&first), given(&second)), (Some(true), Some(true)));
        assert_eq!(given(&pause(&mut session)), Some(true), "it is already");
        session.asked();
        session.act(Instant::now());
        assert_eq!(given(&pause(&mut session)), Some(false), "it is to stop");
        vmm.send(&FromVmm::Resumed, &[]).unwrap();
        session.hear();
        assert_eq!(session.pausing.state, Pause::No);
        let told = told(&vmm);
        assert!(
            matches!(told[..], [ToVmm::Pause, ToVmm::Resume, ToVmm::PowerButton]),
            "{told:?}"
        );
    });
}

#[test]
fn a_pause_that_is_taken_back_is_refused_and_a_resume_without_one_is_done() {
    with_session(|mut session, vmm| {
        session.running = Some(Instant::now());
        let (resume, resumed) = answer();
        session.answer_resume(resume);
        assert_eq!(given(&resumed), Some(true));
        let (pause, paused) = answer();
        session.pause(pause);
        let (resume, resumed) = answer();
        session.answer_resume(resume);
        assert_eq!((given(&paused), given(&resumed)), (Some(false), None));
        // Late, and not what is waited for any more.
        vmm.send(&FromVmm::Paused, &[]).unwrap();
        session.hear();
        assert_eq!(given(&resumed), None);
        vmm.send(&FromVmm::Resumed, &[]).unwrap();
        session.hear();
        assert_eq!(given(&resumed), Some(true));
    });
}

#[test]
fn a_vmm_that_says_unasked_that_it_is_paused_is_not_believed() {
    with_session(|mut session, vmm| {
        session.running = Some(Instant::now());
        vmm.send(&FromVmm::Paused, &[]).unwrap();
        vmm.send(&FromVmm::Resumed, &[]).unwrap();
        session.hear();
        assert_eq!(session.pausing.state, Pause::No);
    });
}

fn wish(session: &mut Session<'_>, wish: Wish) -> bool {
    let (answer, answers) = answer();
    session.signals.requests().put(Request { wish, answer });
    session.serve();
    given(&answers) == Some(true)
}

#[test]
fn who_asks_for_a_balloon_is_answered_by_the_vmm_in_whatever_order_it_can() {
    with_session(|mut session, vmm| {
        let ask = |session: &mut Session<'_>, size, statistics| {
            let (answer, given) = answer();
            session.balloon(size, statistics, answer);
            given
        };
        assert_eq!(given(&ask(&mut session, None, false)), Some(false));
        session.running = Some(Instant::now());
        // Half a GiB is what the VM has.
        assert_eq!(given(&ask(&mut session, Some(513), false)), Some(false));
        let slow = ask(&mut session, Some(512), true);
        let quick = ask(&mut session, None, false);
        let told = told(&vmm);
        assert!(
            matches!(
                told[..],
                [
                    ToVmm::Balloon {
                        id: 1,
                        size_bytes: Some(0x2000_0000),
                        statistics: true
                    },
                    ToVmm::Balloon {
                        id: 2,
                        size_bytes: None,
                        statistics: false
                    }
                ]
            ),
            "{told:?}"
        );
        let report = |id| FromVmm::Balloon {
            id,
            report: Some(minivmm_vmm::BalloonReport::default()),
        };
        for (id, slow_is, quick_is) in [
            (7, None, None),
            (2, None, Some(true)),
            (2, None, None),
            (1, Some(true), None),
        ] {
            vmm.send(&report(id), &[]).unwrap();
            session.hear();
            assert_eq!((given(&slow), given(&quick)), (slow_is, quick_is), "{id}");
        }
    });
}

#[test]
fn a_stop_goes_before_a_reboot_and_is_not_hurried_by_it() {
    const REBOOT: Wish = Wish::Reboot { force: false };
    with_session(|mut session, _vmm| {
        assert!(!wish(&mut session, REBOOT), "it does not run");
        session.running = Some(Instant::now());
        assert!(wish(&mut session, REBOOT) && wish(&mut session, REBOOT));
        assert_eq!(session.intent, Intent::Reboot);
        // The first signal after that ends nothing by force.
        session.asked();
        assert_eq!(session.intent, Intent::Stop);
        assert!(session.stop.has_begun() && !session.stop.is_killing());
        assert!(!wish(&mut session, REBOOT));
        assert!(!wish(&mut session, Wish::Pause));
        assert!(wish(&mut session, Wish::Kill) && session.stop.is_killing());
    });
}

#[test]
fn a_forced_reboot_waits_for_nobody() {
    with_session(|mut session, _vmm| {
        session.running = Some(Instant::now());
        assert!(wish(&mut session, Wish::Reboot { force: false }));
        assert!(!session.stop.is_killing());
        assert!(wish(&mut session, Wish::Reboot { force: true }));
        assert!(session.stop.is_killing());
        assert_eq!(session.intent, Intent::Reboot);
    });
}
