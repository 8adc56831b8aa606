//! What a guarded delivery never reaches (security.md 4): every way to write a private address, names that lead to
//! one, names that change their mind, redirects.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::tests::{nothing, receiver, request, rules};
use super::*;

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn guarded_rules() -> DeliveryRules {
    let ranges = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,127.0.0.0/8,169.254.0.0/16,fc00::/7,fe80::/10";
    DeliveryRules { private_ranges: AddressRules::private(&[ranges.to_owned()]), ..rules() }
}

#[tokio::test]
async fn a_private_address_is_refused_however_it_is_written() {
    let (server, courier) = (receiver().await, Courier::default());
    let way = Way::new(guarded_rules());
    let port = server.address.port();
    for host in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "0177.0.0.1",
        "0x7f000001",
        "2130706433",
        "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "169.254.10.10",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "localhost",
    ] {
        let answer = courier.send(request("POST", &format!("http://{host}:{port}/ok")), &way, true, &nothing).await;
        assert_eq!((answer.code, answer.text.as_str(), answer.answered), (403, REFUSED_TEXT, false), "{host}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_with_one_private_address_is_refused_whole() {
    let way = Way::new(guarded_rules());
    for answer in [
        vec!["127.0.0.1"],
        vec!["10.0.0.1"],
        vec!["169.254.169.254"],
        vec!["fe80::1"],
        vec!["fd00::1"],
        vec!["::1"],
        vec!["::ffff:10.0.0.1"],
        vec!["64:ff9b::a00:1"],
        vec!["93.184.216.34", "192.168.0.1"],
        vec!["2606:4700::1111", "::ffff:127.0.0.1"],
    ] {
        let found = addresses(&answer);
        let names = NameSource::answered_by(move |_| Ok(found.clone()));
        let courier = Courier { names, ..Courier::default() };
        let answered = courier.send(request("POST", "http://inside.test/ok"), &way, true, &nothing).await;
        assert_eq!((answered.code, answered.text.as_str()), (403, REFUSED_TEXT), "{answer:?}");
    }
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_judged_by_what_is_connected_to() {
    let server = receiver().await;
    let port = server.address.port();
    // 127.0.0.1 stands for a public address, 127.0.0.2 for a private one.
    let ranges = AddressRules { refused: vec![Range::parse("127.0.0.2").unwrap()], ..AddressRules::default() };
    let way = Way::new(DeliveryRules { private_ranges: ranges.refused, ..rules() });
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let names = NameSource::answered_by(move |_| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        Ok(addresses(&[if first { "127.0.0.1" } else { "127.0.0.2" }]))
    });
    let courier = Courier { names, ..Courier::default() };
    let url = format!("http://rebinding.test:{port}/ok");
    assert_eq!(courier.send(request("POST", &url), &way, true, &nothing).await.code, 200);
    assert_eq!(asked.load(Ordering::SeqCst), 1, "what was judged is what was connected to: there is no second look-up");
    // Another connection, another look-up: judged anew.
    let other = DeliveryRules { idle_per_host: 5, ..way.rules.clone() };
    let refused = courier.send(request("POST", &url), &Way::new(other), true, &nothing).await;
    assert_eq!((refused.code, refused.text.as_str()), (403, REFUSED_TEXT));
    assert_eq!(server.seen.lock().len(), 1);
}

#[tokio::test]
async fn a_redirect_is_judged_like_the_first_request() {
    let server = receiver().await;
    let port = server.address.port();
    let refused = vec![Range::parse("127.0.0.2").unwrap()];
    let way = Way::new(DeliveryRules { private_ranges: refused, ..rules() });
    let names =
        NameSource::answered_by(|name| Ok(addresses(&[if name == "away.test" { "127.0.0.2" } else { "127.0.0.1" }])));
    let courier = Courier { names, ..Courier::default() };
    let away = courier.send(request("POST", &format!("http://home.test:{port}/away")), &way, true, &nothing).await;
    assert_eq!((away.code, away.text.as_str()), (403, REFUSED_TEXT));
    let metadata =
        courier.send(request("POST", &format!("http://home.test:{port}/metadata")), &way, false, &nothing).await;
    assert_eq!(metadata.code, 403, "the clouds' metadata is out of reach also without a guard");
}
