//! Failed log-ins, counted by address and by user: a lock-out that locks out nobody else.

use harness::identity::{ALICE, BOB};
use harness::{Request, eventually};

use super::*;
use crate::stores::on_both_stores;

on_both_stores! {
    wrong_passwords_lock_one_user_from_one_address
    many_users_from_one_address_are_one_guesser
    success_uses_up_nothing_and_forgives_nothing
    what_is_no_guess_is_not_counted
    a_form_without_a_user_locks_out_nobody
    who_is_locked_out_learns_nothing_from_it
}

const HERE: &str = "192.0.2.1";
const ELSEWHERE: &str = "192.0.2.2";

fn policy() -> String {
    limit("user", "quota = 3\nby = [\"address\", \"user\"]\ncount = \"failures\"")
        + &limit("address", "quota = 6\nwindow = \"1h\"\nby = [\"address\"]\ncount = \"failures\"")
        + "[routes.token]\nlimits = [\"user\", \"address\"]\n"
}

fn log_in(gateway: &Gateway, user: &str, password: &str, from: &str) -> Request {
    let form = format!("grant_type=password&username={user}&password={}", password.replace(' ', "+"));
    gateway.client().token(&form).header("x-forwarded-for", from)
}

/// Sends it until it is not refused for what is still being given back.
async fn settled(request: impl Fn() -> Request) -> u16 {
    let asked = eventually("a settled answer", async || Some(request().send().await.status).filter(|it| *it != 429));
    asked.await
}

async fn wrong_passwords_lock_one_user_from_one_address(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, &policy()).await;
    for _ in 0..3 {
        let answer = log_in(&gateway, "alice", "wrong", HERE).send().await;
        assert_eq!((answer.status, answer.header("ratelimit")), (400, String::new()), "{}", answer.text());
    }
    for password in ["wrong", ALICE] {
        let refused = log_in(&gateway, "alice", password, HERE).send().await;
        assert_limited(&refused, &["user"]);
        assert!((55..=60).contains(&retry_after(&refused).as_secs()));
    }
    // The user comes in from elsewhere, and others from here.
    assert_eq!(log_in(&gateway, "alice", ALICE, ELSEWHERE).send().await.status, 200);
    assert_eq!(log_in(&gateway, "bob", BOB, HERE).send().await.status, 200);
    // However the name is written, it is the same one.
    assert_eq!(log_in(&gateway, "%61lice", ALICE, HERE).send().await.status, 429);
    worker.assert_untouched();
}

async fn many_users_from_one_address_are_one_guesser(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, &policy()).await;
    for number in 0..6 {
        assert_eq!(log_in(&gateway, &format!("user{number}"), "wrong", HERE).send().await.status, 400);
    }
    let refused = log_in(&gateway, "bob", BOB, HERE).send().await;
    assert_limited(&refused, &["address"]);
    assert!(retry_after(&refused).as_secs() > 3500, "the wider window locks for longer");
    assert_eq!(log_in(&gateway, "bob", BOB, ELSEWHERE).send().await.status, 200);
}

async fn success_uses_up_nothing_and_forgives_nothing(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, &policy()).await;
    for _ in 0..8 {
        assert_eq!(settled(|| log_in(&gateway, "alice", ALICE, HERE)).await, 200);
    }
    for _ in 0..2 {
        assert_eq!(settled(|| log_in(&gateway, "alice", "wrong", HERE)).await, 400);
    }
    assert_eq!(settled(|| log_in(&gateway, "alice", ALICE, HERE)).await, 200);
    // The third failure is still the last one.
    assert_eq!(settled(|| log_in(&gateway, "alice", "wrong", HERE)).await, 400);
    assert_limited(&log_in(&gateway, "alice", ALICE, HERE).send().await, &["user"]);
}

async fn what_is_no_guess_is_not_counted(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, &policy()).await;
    for _ in 0..4 {
        for form in ["grant_type=password&username=alice", "grant_type=client_credentials", ""] {
            let status = settled(|| gateway.client().token(form).header("x-forwarded-for", HERE)).await;
            assert_eq!(status, 400);
        }
        let status = settled(|| gateway.client().post("/token").body("x").header("x-forwarded-for", HERE)).await;
        assert_eq!(status, 400);
    }
    for _ in 0..3 {
        assert_eq!(settled(|| log_in(&gateway, "alice", "wrong", HERE)).await, 400);
    }
    assert_eq!(log_in(&gateway, "alice", "wrong", HERE).send().await.status, 429);
}

/// Found in a review: what was remembered of a window without a user's name was held against every user.
async fn a_form_without_a_user_locks_out_nobody(store: Store) {
    let worker = Recorder::start();
    let policy = limit("user", "quota = 2\nby = [\"address\", \"user\"]") + "[routes.token]\nlimits = [\"user\"]\n";
    let gateway = store.start(&worker, &policy).await;
    for expected in [400, 400, 429, 429] {
        let answer =
            gateway.client().token("grant_type=password&password=x").header("x-forwarded-for", HERE).send().await;
        assert_eq!(answer.status, expected);
    }
    assert_eq!(log_in(&gateway, "alice", ALICE, HERE).send().await.status, 200);
    // And each user has a window.
    assert_eq!(log_in(&gateway, "bob", BOB, HERE).send().await.status, 200);
}

async fn who_is_locked_out_learns_nothing_from_it(store: Store) {
    let worker = Recorder::start();
    let policy = policy() + "[limits.few]\nin_flight = 50\nby = [\"address\"]\n";
    let policy = policy.replace("[\"user\", \"address\"]\n", "[\"user\", \"address\", \"few\"]\n");
    let gateway = store.start(&worker, &policy).await;
    // Known and unknown users are told the same, before and after.
    for count in 0..4 {
        let mut told = Vec::new();
        for (user, from) in [("alice", HERE), ("nobody", ELSEWHERE)] {
            let answer = log_in(&gateway, user, "wrong", from).send().await;
            assert_eq!(answer.status, if count < 3 { 400 } else { 429 });
            let mut names: Vec<String> = answer.headers.keys().map(ToString::to_string).collect();
            names.sort();
            let problem = (answer.status == 429).then(|| answer.json()["violated_policies"].clone());
            told.push((names, problem));
            if count < 3 {
                assert_eq!(
                    (answer.header("ratelimit"), answer.header("ratelimit-policy")),
                    (String::new(), String::new())
                );
            }
        }
        assert_eq!(told[0], told[1]);
    }
}
