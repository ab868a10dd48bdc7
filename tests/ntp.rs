//! The SNTP client against servers on loopback. The clock of the machine is never set here.

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use drophammer::net::Resolver;
use drophammer::net::ntp::{AskError, BadAnswer, NoChoice, ServerAnswer, ask_all, choose_answer};

const LIMIT: Duration = Duration::from_secs(4);

/// Answers one question. `None`: stays silent.
type Answer = fn(&[u8]) -> Option<Vec<u8>>;

/// Starts a server; answers its `host:port`.
fn serve(answer: Answer) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
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

async fn ask(servers: &[String]) -> Vec<Result<ServerAnswer, AskError>> {
    ask_all(servers, &Resolver::new(&[], &[]), LIMIT).await.into_iter().map(|asked| asked.result).collect()
}

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
    assert_eq!(chosen.server, servers[0]);
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
    let kiss: Answer = |question| {
        let mut packet = ahead(question, 0.0);
        packet[1] = 0;
        packet[12..16].copy_from_slice(b"DENY");
        Some(packet)
    };
    let unsynchronised: Answer = |question| {
        let mut packet = ahead(question, 0.0);
        packet[0] = 0xe4;
        Some(packet)
    };
    let results = ask(&[serve(forged), serve(kiss), serve(unsynchronised), "ntp.lab.example".into()]).await;
    assert!(matches!(results[0], Err(AskError::Silent)), "a forgery is not taken for an answer: {:?}", results[0]);
    assert!(matches!(&results[1], Err(AskError::Bad(BadAnswer::KissOfDeath { code })) if code == "DENY"));
    assert!(matches!(results[2], Err(AskError::Bad(BadAnswer::LeapAlarm))));
    assert!(matches!(results[3], Err(AskError::Name(_))));
    assert_eq!(choose_answer(&[]), Err(NoChoice::NoAnswers));
}
