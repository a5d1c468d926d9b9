//! What is answered to who asks for a part of a plan's past.

use super::*;

/// A change with as large a text as a plan's description may be.
fn describe(number: usize) -> Operation {
    let text = format!("{number} {}", "x".repeat(limits::METADATA_BYTES_MAX - 100));
    let edits = vec![Edit::UpdateMetadata { name: None, description: Some(Some(text)) }];
    Operation { edits, ..rename(&format!("d{number}"), "") }
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_large_changes_ends_early_and_says_that_there_are_more() {
    const CHANGES: usize = 200;
    const BYTES_MAX: usize = 9_000_000;
    let (one, two, here, _, plan) = pair().await;
    let begin = here.read(plan).await.expect("a plan").revision();
    for number in 1..=CHANGES {
        here.submit(plan, describe(number), true).await.expect("an edit");
    }
    let page = here.deltas(plan, begin, 1_000).await.expect("an answer");
    let bytes: usize = page.changes.iter().map(|applied| applied.payload.len()).sum();
    assert!(bytes <= BYTES_MAX, "{bytes} bytes in one answer");
    assert!(page.has_more);
    let rest = here.deltas(plan, page.end_revision, 1_000).await.expect("an answer");
    assert!(!rest.has_more);
    let told: Vec<_> = page.changes.iter().chain(&rest.changes).map(|applied| applied.revision().seq).collect();
    assert_eq!(told, (1..=CHANGES as u64).collect::<Vec<_>>());
    one.stop().await;
    two.stop().await;
}
