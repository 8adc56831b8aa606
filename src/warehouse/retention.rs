//! What becomes of old uploads (warehouse.md 15).
//!
//! Records of files of uploads that have been in their warehouse for some days are removed; the uploads themselves
//! only where the operator wants it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::records::Upload;
use super::state::{State, Step};
use super::{Shared, events, ledger};
use crate::jobsdb::{Durability, JobsDbError, Tx};

/// Most uploads of one pass.
const AT_ONCE: usize = 10_000;

/// Removes what is old enough.
pub(super) async fn pass(shared: &Arc<Shared>) -> Result<(), JobsDbError> {
    let rules = shared.settings.load().warehouse.clone();
    let now_ms = shared.clock.now_ms();
    let before = |age: Duration| now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    if rules.archives_uploads {
        archive(shared, before(rules.archive_after)).await?;
    }
    if rules.deletes_uploads {
        forget(shared, before(rules.delete_after)).await?;
    }
    Ok(())
}

/// Uploads in their warehouse that were made before the time, from an id on. The second is the id up to which nothing
/// is left to do.
fn old_uploads(book: &ledger::Ledger, from: u64, before_ms: i64) -> Result<(Vec<Upload>, u64), JobsDbError> {
    let (mut found, mut settled, mut is_settled) = (Vec::new(), from, true);
    book.visit_uploads(from.saturating_add(1), |upload| {
        if upload.created_ms >= before_ms || found.len() >= AT_ONCE {
            return ControlFlow::Break(());
        }
        let is_done = upload.status == State::Done(Step::Export);
        // An upload that is not at its end keeps the mark where it is.
        is_settled &= upload.status.is_final();
        if is_settled {
            settled = upload.id;
        }
        if is_done {
            found.push(upload);
        }
        ControlFlow::Continue(())
    })?;
    Ok((found, settled))
}

async fn archive(shared: &Arc<Shared>, before_ms: i64) -> Result<(), JobsDbError> {
    let read = move |book: &ledger::Ledger| {
        let from = book.archived_to()?;
        let (found, settled) = old_uploads(book, from, before_ms)?;
        Ok((from, found, settled))
    };
    let (from, found, settled) = shared.ledger.blocking(read).await?;
    let mut archived = 0;
    for mut upload in found.into_iter().filter(|upload| !upload.archived) {
        let id = upload.id;
        let read = move |book: &ledger::Ledger| Ok((book.staged_ids(id)?, book.load_files(id)?));
        let (staged, files) = shared.ledger.blocking(read).await?;
        let mut tx = Tx::new(Durability::Lazy);
        ledger::delete_staged(&mut tx, id, &staged.iter().map(|file| file.id).collect::<BTreeSet<u64>>());
        for file in &files {
            ledger::delete_load_file(&mut tx, file);
        }
        upload.archived = true;
        shared.ledger.save_with(&mut upload, tx).await?;
        archived += 1;
    }
    events::archived(archived);
    if settled > from {
        let mut tx = Tx::new(Durability::Lazy);
        ledger::put_archived_to(&mut tx, settled);
        shared.ledger.jobs().commit(tx).await?;
    }
    Ok(())
}

async fn forget(shared: &Arc<Shared>, before_ms: i64) -> Result<(), JobsDbError> {
    let (found, _) = shared.ledger.blocking(move |book| old_uploads(book, 0, before_ms)).await?;
    for upload in found.into_iter().filter(|upload| upload.archived) {
        let id = upload.id;
        let tables = shared.ledger.blocking(move |book| book.tables(id)).await?;
        let mut tx = Tx::new(Durability::Lazy);
        ledger::delete_upload(&mut tx, id, &tables);
        shared.ledger.jobs().commit(tx).await?;
    }
    Ok(())
}
