//! When a certificate ends: the one thing a node must know of its own certificate beyond using it.
//!
//! Reads just as far into the DER of X.509 as that stands, and gives up at anything unexpected.

use mille_shared::Timestamp;

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The optional version, before the serial number.
const VERSION: u8 = 0xa0;
/// Serial number, algorithm and issuer, between the version and the validity.
const SKIPPED: usize = 3;

/// When a certificate ends; `None` if that can't be read.
pub(super) fn not_after(der: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = expect(SEQUENCE, der)?;
    let (mut fields, _) = expect(SEQUENCE, certificate)?;
    if fields.first() == Some(&VERSION) {
        (_, _, fields) = element(fields)?;
    }
    for _ in 0..SKIPPED {
        (_, _, fields) = element(fields)?;
    }
    let (validity, _) = expect(SEQUENCE, fields)?;
    let (_, _, rest) = element(validity)?;
    let (tag, text, _) = element(rest)?;
    moment(tag, std::str::from_utf8(text).ok()?)
}

/// `YYMMDDhhmmssZ`, where 50 and above is the last century, or the same with the whole year.
fn moment(tag: u8, text: &str) -> Option<Timestamp> {
    let whole = match tag {
        UTC_TIME if text.get(..2)? >= "50" => format!("19{text}"),
        UTC_TIME => format!("20{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let digits = whole.strip_suffix('Z').filter(|digits| digits.len() == 14 && digits.is_ascii())?;
    let part = |from: usize| &digits[from..from + 2];
    let (year, month, day) = (&digits[..4], part(4), part(6));
    Timestamp::parse(&format!("{year}-{month}-{day}T{}:{}:{}Z", part(8), part(10), part(12)))
}

fn expect(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// The first element: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // A length of up to four bytes, which is more than any certificate has.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn certificate_until(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["node.example".to_owned()]).expect("a name");
        params.not_after = date_time_ymd(year, 3, 9);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().to_vec()
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_forms_of_time() {
        for year in [2031, 2049, 2050, 2077] {
            let expected = Timestamp::parse(&format!("{year}-03-09T00:00:00Z"));
            assert_eq!(not_after(&certificate_until(year)), expected, "{year}");
        }
    }

    #[test]
    fn half_a_certificate_has_no_end() {
        let whole = certificate_until(2031);
        assert!((0..whole.len()).all(|length| not_after(&whole[..length]).is_none()));
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_it_gives_up_in_peace(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..400usize) {
            not_after(&bytes);
            let mut damaged = certificate_until(2031);
            if let (Some(place), Some(byte)) = (damaged.get_mut(at), bytes.first()) {
                *place = *byte;
            }
            not_after(&damaged);
        }
    }
}
