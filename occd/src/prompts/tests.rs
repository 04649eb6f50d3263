use std::pin::pin;

use futures_util::FutureExt as _;

use super::*;

fn question(text: &str) -> Question {
    Question {
        kind: PromptKind::Passphrase,
        host: None,
        message: text.to_owned(),
        note: None,
        secret: true,
        again: false,
    }
}

fn answer(text: &str) -> AnswerPrompt {
    AnswerPrompt { answer: Some(Secret::new(text.to_owned())) }
}

fn client(token: &str) -> Client {
    Client::new(Some(token), None, Arc::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_client_that_raised_it_sees_it_first_and_all_after_five_seconds() {
    let prompts = Arc::new(Prompts::default());
    let ours = client("ours");
    let questions = Questions::of(Arc::clone(&prompts), &ours);
    let mut asking = pin!(questions.ask(question("q")));
    assert!(asking.as_mut().now_or_never().is_none());
    assert_eq!(prompts.visible(Some("ours")).len(), 1);
    assert_eq!(prompts.visible(Some("other")), []);
    assert_eq!(prompts.visible(None), []);
    // Nor can anybody else answer it by then.
    let id = prompts.visible(Some("ours"))[0].id;
    assert!(prompts.answer(id, None, None, answer("x")).is_err());
    assert!(prompts.answer(id, Some("other"), None, answer("x")).is_err());
    tokio::time::sleep_until(prompts.next_for_all().unwrap()).await;
    let seen = prompts.visible(None);
    assert_eq!((seen[0].message.as_str(), seen[0].secret), ("q", true));
    // The first answer wins.
    prompts.answer(seen[0].id, None, None, answer("a")).unwrap();
    assert!(prompts.answer(seen[0].id, None, None, answer("b")).is_err());
    assert_eq!(asking.await.unwrap().expose(), "a");
    assert_eq!(questions.open(), None);
}

#[tokio::test]
async fn whoever_asks_when_the_daemon_stops_is_told_that() {
    let prompts = Arc::new(Prompts::default());
    let ours = client("ours");
    let questions = Questions::of(Arc::clone(&prompts), &ours);
    let mut asking = pin!(questions.ask(question("q")));
    assert!((&mut asking).now_or_never().is_none());
    prompts.close();
    assert_eq!(asking.await.unwrap_err(), NoAnswer::Stopping);
}

#[tokio::test(start_paused = true)]
async fn without_a_client_that_listens_there_is_nobody() {
    let prompts = Arc::new(Prompts::default());
    let questions = Questions::of(Arc::clone(&prompts), &client("gone"));
    assert_eq!(questions.ask(question("q")).await.unwrap_err(), NoAnswer::Nobody);
    let ours = client("ours");
    questions.add(&ours);
    assert_eq!(questions.ask(question("q")).await.unwrap_err(), NoAnswer::Timeout);
    assert_eq!(prompts.visible(Some("ours")), []);
    let mut asking = pin!(questions.ask(question("q")));
    assert!(asking.as_mut().now_or_never().is_none());
    let id = prompts.visible(Some("ours"))[0].id;
    prompts.answer(id, Some("ours"), None, AnswerPrompt { answer: None }).unwrap();
    assert_eq!(asking.await.unwrap_err(), NoAnswer::Declined);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_dropped_is_withdrawn() {
    let prompts = Arc::new(Prompts::default());
    let ours = client("ours");
    let questions = Questions::of(Arc::clone(&prompts), &ours);
    {
        let mut asking = pin!(questions.ask(question("q")));
        assert!(asking.as_mut().now_or_never().is_none());
        assert_eq!(questions.open().as_deref(), Some("q"));
    }
    assert_eq!(questions.open(), None);
    assert_eq!(prompts.visible(Some("ours")), []);
}

#[tokio::test(start_paused = true)]
async fn the_clock_stands_still_while_a_question_is_open() {
    let prompts = Arc::new(Prompts::default());
    let ours = client("ours");
    let key = Questions::new(Arc::clone(&prompts));
    let host = Questions::of(Arc::clone(&prompts), &ours);
    let begun = Instant::now();
    let work = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        // The key's question is the host's, and the host's client answers it.
        let asking = host.during(&key, key.ask(question("q")));
        let person = async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            assert_eq!(host.open().as_deref(), Some("q"));
            let id = prompts.visible(Some("ours"))[0].id;
            prompts.answer(id, Some("ours"), None, answer("a")).unwrap();
        };
        let (answer, ()) = tokio::join!(asking, person);
        assert_eq!(answer.unwrap().expose(), "a");
        std::future::pending::<()>().await;
    };
    let limit = begun + Duration::from_secs(15);
    assert_eq!(host.timeout_at(limit, Duration::ZERO, work).await, Err(TimedOut));
    assert_eq!(begun.elapsed().as_secs(), 55);
    assert_eq!(host.spent().as_secs(), 40);
    assert!(!key.can_ask());
}

#[test]
fn tokens_are_short_words() {
    for bad in ["", "a b", "ü", "a\n", &"x".repeat(65)] {
        assert!(Client::new(Some(bad), None, Arc::default()).is_err(), "{bad:?}");
    }
    assert!(Client::new(Some("9f-A"), None, Arc::default()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_person_elsewhere_stops_the_clocks_and_is_no_question() {
    let prompts = Arc::new(Prompts::default());
    let ours = client("ours");
    let questions = Questions::of(Arc::clone(&prompts), &ours);
    let notice = || Question { kind: PromptKind::Notice, ..question("touch it") };
    // What ends by itself is nobody's concern.
    assert_eq!(questions.elsewhere(notice(), async { 1 }).await, Ok(1));
    assert_eq!(questions.spent(), Duration::ZERO);

    let begun = Instant::now();
    let work = sleep(Duration::from_secs(20));
    let mut waiting = pin!(questions.elsewhere(notice(), work));
    assert!(timeout(BY_ITSELF * 2, &mut waiting).await.is_err());
    let shown = prompts.visible(Some("ours"));
    assert_eq!((shown[0].kind, shown[0].message.as_str()), (PromptKind::Notice, "touch it"));
    assert_eq!(questions.open().as_deref(), Some("touch it"));
    // Whoever cannot answer questions waits all the same.
    assert!(questions.opened().now_or_never().is_none());
    // The clock of a dial stands still meanwhile: a second is enough for twenty.
    let end = begun + Duration::from_secs(2);
    assert!(questions.timeout_at(end, Duration::ZERO, &mut waiting).await.is_ok());
    assert!(questions.spent() >= Duration::from_secs(18));
    assert_eq!(questions.open(), None);

    // It has no answer, and can be declined.
    let mut waiting = pin!(questions.elsewhere(notice(), std::future::pending::<()>()));
    assert!(timeout(BY_ITSELF * 2, &mut waiting).await.is_err());
    let id = prompts.visible(Some("ours"))[0].id;
    assert!(prompts.answer(id, Some("ours"), None, answer("yes")).is_err());
    prompts.answer(id, Some("ours"), None, AnswerPrompt { answer: None }).unwrap();
    assert_eq!(waiting.await, Err(NoAnswer::Declined));
    let waiting = questions.elsewhere(notice(), std::future::pending::<()>());
    assert_eq!(waiting.await, Err(NoAnswer::Timeout));
}

#[tokio::test(start_paused = true)]
async fn who_is_lent_anew_at_once_keeps_the_question_open() {
    let prompts = Arc::new(Prompts::default());
    let ours = client("ours");
    let (hop, host) = (Questions::new(Arc::clone(&prompts)), Questions::of(prompts, &ours));
    let mut lent = Some(hop.clients.lend(&host.clients));
    let mut asking = pin!(hop.ask(question("q")));
    let look = Duration::from_millis(250);
    for _ in 0..3 {
        assert!(timeout(look * 2, &mut asking).await.is_err());
        lent.take();
        assert!(timeout(look / 2, &mut asking).await.is_err());
        lent = Some(hop.clients.lend(&host.clients));
    }
    drop(lent);
    assert_eq!(timeout(look * 3, &mut asking).await.unwrap().unwrap_err(), NoAnswer::Left);
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_elsewhere_is_told_its_fate_and_shown_the_next_question_at_once() {
    let prompts = Arc::new(Prompts::default());
    let (ours, other) = (client("ours"), client("other"));
    let questions = Questions::of(Arc::clone(&prompts), &ours);
    questions.add(&other);
    let (questions, file) = (&questions, Path::new("key"));
    let ask = |again| async move {
        let question = Question { again, ..question("q") };
        questions.ask_in(&mut None, question).await.unwrap()
    };
    let mut asking = pin!(ask(false));
    assert!(timeout(FIRST, &mut asking).await.is_err());
    let shown = prompts.visible(None).remove(0);
    let mut told = prompts.answer(shown.id, None, None, answer("a")).unwrap();
    let first = asking.await;
    assert!(told.try_recv().is_err());
    first.by.were_wrong(file);
    let mut asking = pin!(ask(true));
    assert!(asking.as_mut().now_or_never().is_none());
    let next = prompts.visible(None).remove(0);
    assert_eq!(told.await, Ok(Fate { wrong: true, next: Some(next.id) }));
    // One client's answers are that client's tries; those from elsewhere are everybody's.
    let told = prompts.answer(next.id, Some("ours"), None, answer("b")).unwrap();
    asking.await.by.were_wrong(file);
    questions.settle(true);
    assert_eq!(told.await, Ok(Fate { wrong: true, next: None }));
    let mut asking = pin!(ask(false));
    assert!(asking.as_mut().now_or_never().is_none());
    assert_eq!(prompts.visible(None), []);
    let third = prompts.visible(Some("ours")).remove(0);
    let told = prompts.answer(third.id, Some("ours"), None, answer("c")).unwrap();
    asking.await.by.were_wrong(file);
    questions.settle(false);
    assert!(told.await.is_err());
    assert!(!questions.are_spent(file));
    // A login may take more than one answer: who gave the first, and waits for what comes, is asked for the second.
    let mut asking = pin!(ask(false));
    assert!(timeout(FIRST, &mut asking).await.is_err());
    let shown = prompts.visible(None).remove(0);
    let told = prompts.answer(shown.id, None, None, answer("d")).unwrap();
    asking.await;
    let mut asking = pin!(ask(false));
    assert!(asking.as_mut().now_or_never().is_none());
    let next = prompts.visible(None).remove(0);
    assert_eq!(told.await, Ok(Fate { wrong: false, next: Some(next.id) }));
    drop(prompts.answer(next.id, None, None, answer("e")).unwrap());
    asking.await;
    drop(other);
    assert!(questions.are_spent(file));
}

#[tokio::test(start_paused = true)]
async fn so_many_approvals_are_waited_for_and_no_more() {
    let prompts = Arc::new(Prompts::default());
    let approval = || Approval {
        host: None,
        message: "q".to_owned(),
        note: None,
        by: None,
        lineage: None,
        patience: Duration::from_secs(5),
    };
    let client = Client::default();
    let ask = || Box::pin(prompts.approve(approval(), &client, &|_, _| {}));
    let mut waiting: Vec<_> = (0..64).map(|_| ask()).collect();
    for one in &mut waiting {
        assert!(one.as_mut().now_or_never().is_none());
    }
    assert_eq!(ask().await, Err(NoAnswer::Nobody));
    assert_eq!(prompts.visible(None).len(), 64);
    let id = prompts.visible(None)[0].id;
    // Whoever cannot be told may be the one that wants it.
    assert_eq!(prompts.answer(id, None, None, answer("yes")).unwrap_err(), NotTaken::Own);
    let person = Peer { pid: Some(1), uid: 0 };
    prompts.answer(id, None, Some(person), answer("yes")).unwrap();
    assert_eq!(waiting.remove(0).await, Ok(true));
    let id = prompts.visible(None)[0].id;
    prompts.answer(id, None, Some(person), answer("perhaps")).unwrap();
    assert_eq!(waiting.remove(0).await, Ok(false));
    assert_eq!(waiting.remove(0).await, Err(NoAnswer::Timeout));
}
