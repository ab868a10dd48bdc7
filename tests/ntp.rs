//! The SNTP client against servers on loopback. The clock of the machine is never set here.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use drophammer::net::ntp::{AskError, Asked, BadAnswer, ClockError, NoChoice, ServerAnswer, choose_answer, set_clock};
use drophammer::net::{NtpClient, Resolver};
use drophammer::sys::roots::Roots;

const LIMIT: Duration = Duration::from_secs(4);

/// Answers one question. `None`: stays silent.
type Answer = fn(&[u8]) -> Option<Vec<u8>>;

/// Starts a server; answers its `host:port`.
fn serve(answer: Answer) -> String {
    serve_counting(Arc::default(), answer)
}

/// As [`serve`], counting questions.
fn serve_counting(asked: Arc<AtomicU32>, answer: Answer) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            asked.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = answer(&buffer[..len]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    address
}

/// A good stratum 2 server whose clock is ahead of ours.
fn ahead(question: &[u8], seconds: f64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs_f64(seconds);
    let ntp = ((now.as_secs() + 2_208_988_800) << 32) | ((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000);
    let mut packet = vec![0; 48];
    packet[0] = 0x24;
    packet[1] = 2;
    packet[24..32].copy_from_slice(&question[40..48]);
    packet[32..40].copy_from_slice(&ntp.to_be_bytes());
    packet[40..48].copy_from_slice(&ntp.to_be_bytes());
    packet
}

fn client() -> NtpClient {
    NtpClient::new(Resolver::new(&[], &[]))
}

async fn ask(servers: &[String]) -> Vec<Result<ServerAnswer, AskError>> {
    results(client().ask_all(servers, LIMIT).await)
}

fn results(asked: Vec<Asked>) -> Vec<Result<ServerAnswer, AskError>> {
    asked.into_iter().map(|asked| asked.result).collect()
}

fn kiss(question: &[u8], code: &[u8; 4]) -> Vec<u8> {
    let mut packet = ahead(question, 0.0);
    packet[1] = 0;
    packet[12..16].copy_from_slice(code);
    packet
}

const HOUR_S: f64 = 3600.0;
const YEAR_S: f64 = 365.0 * 24.0 * HOUR_S;

#[tokio::test]
async fn the_majority_is_believed_and_the_silent_left_out() {
    let servers = [
        serve(|question| Some(ahead(question, 3600.0))),
        serve(|question| Some(ahead(question, 86_400.0))),
        serve(|question| Some(ahead(question, 3600.2))),
        serve(|_| None),
    ];
    let results = ask(&servers).await;
    assert!(matches!(results[3], Err(AskError::Silent)));
    let answers: Vec<ServerAnswer> = results.into_iter().filter_map(Result::ok).collect();
    let chosen = choose_answer(&answers).unwrap();
    // Which of the two is less uncertain is up to the scheduler.
    assert!([&servers[0], &servers[2]].contains(&&chosen.server), "{}", chosen.server);
    let offset_s = chosen.sample.offset_ns as f64 / 1e9;
    assert!((offset_s - 3600.0).abs() < 0.5, "{offset_s}");
}

#[tokio::test]
async fn liars_and_sick_servers_are_told_apart() {
    let forged: Answer = |question| {
        let mut packet = ahead(question, 0.0);
        packet[24] ^= 1;
        Some(packet)
    };
    let kiss: Answer = |question| Some(kiss(question, b"DENY"));
    let stratum_16: Answer = |question| {
        let mut packet = ahead(question, 0.0);
        packet[1] = 16;
        Some(packet)
    };
    let unsynchronised: Answer = |question| {
        let mut packet = ahead(question, 0.0);
        packet[0] = 0xe4;
        Some(packet)
    };
    let servers = [serve(forged), serve(kiss), serve(unsynchronised), "ntp.lab.example".into(), serve(stratum_16)];
    let results = ask(&servers).await;
    assert!(matches!(results[0], Err(AskError::Silent)), "a forgery is not taken for an answer: {:?}", results[0]);
    assert!(matches!(&results[1], Err(AskError::Bad(BadAnswer::KissOfDeath { code })) if code == "DENY"));
    assert!(matches!(results[2], Err(AskError::Bad(BadAnswer::LeapAlarm))));
    assert!(matches!(results[3], Err(AskError::Name(_))));
    assert!(matches!(results[4], Err(AskError::Bad(BadAnswer::Stratum { found: 16 }))));
    assert_eq!(choose_answer(&[]), Err(NoChoice::NoAnswers));
}

#[tokio::test]
async fn one_of_three_that_is_off_by_an_hour_or_a_year_is_outvoted() {
    let liars: [Answer; 2] = [|question| Some(ahead(question, HOUR_S)), |question| Some(ahead(question, YEAR_S))];
    for liar in liars {
        let good: Answer = |question| Some(ahead(question, 0.0));
        let answers: Vec<ServerAnswer> =
            ask(&[serve(liar), serve(good), serve(good)]).await.into_iter().filter_map(Result::ok).collect();
        assert_eq!(answers.len(), 3);
        let offset_s = choose_answer(&answers).unwrap().sample.offset_ns as f64 / 1e9;
        assert!(offset_s.abs() < 0.5, "{offset_s}");
    }
}

/// Two say different things, and the third has no vote: nobody knows who is right, and the clock is not touched.
#[tokio::test]
async fn when_servers_disagree_the_clock_is_left_alone_and_all_is_told() {
    let good: Answer = |question| Some(ahead(question, 0.0));
    let liar: Answer = |question| Some(ahead(question, YEAR_S));
    let alarm: Answer = |question| {
        let mut packet = ahead(question, 0.0);
        packet[0] = 0xe4;
        Some(packet)
    };
    let servers = [serve(good), serve(liar), serve(alarm)];
    let error = set_clock(&Roots::system(), &servers, &client(), LIMIT).await.unwrap_err();
    assert!(matches!(&error, ClockError::NoChoice { choice: NoChoice::Disagree(_), .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("time servers disagree: ") && text.contains(" +31536000."), "{text}");
    assert!(text.contains("answer says that its clock is not synchronised"), "{text}");
}

#[tokio::test]
async fn a_server_that_says_rate_is_left_alone() {
    let asked = Arc::new(AtomicU32::new(0));
    let address = serve_counting(Arc::clone(&asked), |question| Some(kiss(question, b"RATE")));
    let (client, servers) = (client(), [address]);
    let first = results(client.ask_all(&servers, LIMIT).await);
    assert!(matches!(&first[0], Err(AskError::Bad(BadAnswer::KissOfDeath { code })) if code == "RATE"), "{first:?}");
    for _ in 0..3 {
        let later = results(client.ask_all(&servers, LIMIT).await);
        assert!(matches!(&later[0], Err(AskError::LeftAlone { code }) if code == "RATE"), "{later:?}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "it was asked once in all");
}
