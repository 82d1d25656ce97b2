use proptest::prelude::*;

use super::*;

fn sample() -> Checkpoint {
    Checkpoint {
        origin: "kmsd.local/000000000000/local-host-1/a".to_owned(),
        size: 1842,
        root: Hash([1; 32]),
        number: 17,
        counter: 41,
        chain: Hash([2; 32]),
        previous: Hash([3; 32]),
        time_ms: 1_764_104_400_123,
        store: 29,
        sealer: Sealer::Tpm,
    }
}

#[test]
fn a_checkpoint_reads_back() {
    let text = sample().text();
    assert_eq!(Checkpoint::parse(&text), Ok(sample()));
    let software = Checkpoint {
        sealer: Sealer::Software,
        ..sample()
    };
    assert_eq!(Checkpoint::parse(&software.text()), Ok(software));
}

#[test]
fn another_spelling_is_refused_and_its_line_named() {
    let text = sample().text();
    for (from, to, line) in [
        ("kmsd.local/000000000000/local-host-1/a", "", 1),
        ("\n1842\n", "\n01842\n", 2),
        ("\n1842\n", "\n+1842\n", 2),
        ("AQEBAQ", "AQEB", 3),
        ("number 17", "number", 4),
        ("counter 41", "count 41", 5),
        ("chain 02", "chain 2", 6),
        ("time 17", "time 0x17", 8),
        ("sealer tpm", "sealer", 10),
        ("sealer tpm\n", "sealer tpm\nmore\n", 11),
    ] {
        let other = text.replacen(from, to, 1);
        assert_ne!(other, text);
        assert_eq!(
            Checkpoint::parse(&other),
            Err(CheckpointError { line }),
            "{to}"
        );
    }
    assert!(Checkpoint::parse("").is_err());
}

#[test]
fn the_counter_is_part_of_what_the_tpm_signs() {
    let other = Checkpoint {
        counter: 42,
        ..sample()
    };
    assert_ne!(sample().qualifying(), other.qualifying());
    assert_ne!(sample().hash(), other.hash());
}

proptest! {
    #[test]
    fn what_is_read_has_one_spelling(at in any::<prop::sample::Index>(), to in any::<char>()) {
        let mut text: Vec<char> = sample().text().chars().collect();
        let at = at.index(text.len());
        text[at] = to;
        let text: String = text.into_iter().collect();
        if let Ok(checkpoint) = Checkpoint::parse(&text) {
            prop_assert_eq!(checkpoint.text(), text);
        }
    }
}
