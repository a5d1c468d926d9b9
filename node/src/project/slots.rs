//! Which projects run on this node or are being started: each once.

use std::collections::HashMap;
use std::sync::Arc;

use mille_shared::ProjectId;
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell};

/// The projects of a node, by handles `H`.
pub(super) struct Slots<H> {
    /// Locked only to look up or change.
    table: Mutex<Table<H>>,
    is_over: fn(&H) -> bool,
}

type Table<H> = HashMap<ProjectId, Entry<H>>;

struct Entry<H> {
    slot: Arc<Slot<H>>,
    /// Who waits for it to be filled.
    waiters: usize,
}

/// A project that runs or is being started.
struct Slot<H> {
    handle: OnceCell<H>,
    /// Members or plans may have changed. It is there before the project is read, so that no change falls between the two.
    changed: Arc<Notify>,
}

/// Somebody for whom a project is started. Whoever goes last, or gives up last, leaves no slot that nobody fills.
struct Waiter<'a, H> {
    slots: &'a Slots<H>,
    project: ProjectId,
    slot: Arc<Slot<H>>,
}

impl<H: Clone> Slots<H> {
    /// None yet. `is_over` says of a handle that another must take its place.
    pub(super) fn new(is_over: fn(&H) -> bool) -> Self {
        Self { table: Mutex::default(), is_over }
    }

    /// The project's handle, if it runs.
    pub(super) fn get(&self, project: ProjectId) -> Option<H> {
        let table = self.table.lock();
        table.get(&project)?.slot.handle.get().filter(|handle| !(self.is_over)(handle)).cloned()
    }

    /// The handles of all that run.
    pub(super) fn running(&self) -> Vec<H> {
        self.table.lock().values().filter_map(|entry| entry.slot.handle.get().cloned()).collect()
    }

    /// The project's handle; `start` brings it, where it does not run. Who asks meanwhile waits for that; where it fails, the
    /// next of them tries.
    ///
    /// # Errors
    /// Those of `start`.
    pub(super) async fn open<E>(
        &self,
        project: ProjectId,
        start: impl AsyncFnOnce(Arc<Notify>) -> Result<H, E>,
    ) -> Result<H, E> {
        let waiter = self.wait_for(project);
        let Slot { handle, changed } = &*waiter.slot;
        handle.get_or_try_init(|| start(Arc::clone(changed))).await.cloned()
    }

    fn wait_for(&self, project: ProjectId) -> Waiter<'_, H> {
        let mut table = self.table.lock();
        self.remove_if_over(&mut table, project);
        let new = || Slot { handle: OnceCell::new(), changed: Arc::default() };
        let entry = table.entry(project).or_insert_with(|| Entry { slot: Arc::new(new()), waiters: 0 });
        entry.waiters += 1;
        Waiter { slots: self, project, slot: Arc::clone(&entry.slot) }
    }

    /// Forgets a project whose handle is over.
    pub(super) fn forget(&self, project: ProjectId) {
        self.remove_if_over(&mut self.table.lock(), project);
    }

    fn remove_if_over(&self, table: &mut Table<H>, project: ProjectId) {
        if table.get(&project).and_then(|entry| entry.slot.handle.get()).is_some_and(self.is_over) {
            table.remove(&project);
        }
    }

    /// Tells a project, or all of them, that members or plans may have changed; also one that is being started.
    pub(super) fn changed(&self, project: Option<ProjectId>) {
        let table = self.table.lock();
        match project {
            Some(project) => table.get(&project).into_iter().for_each(|entry| entry.slot.changed.notify_one()),
            None => table.values().for_each(|entry| entry.slot.changed.notify_one()),
        }
    }
}

impl<H> Drop for Waiter<'_, H> {
    fn drop(&mut self) {
        let mut table = self.slots.table.lock();
        let ours = |entry: &&mut Entry<H>| Arc::ptr_eq(&entry.slot, &self.slot);
        let Some(entry) = table.get_mut(&self.project).filter(ours) else { return };
        entry.waiters -= 1;
        if entry.waiters == 0 && entry.slot.handle.get().is_none() {
            table.remove(&self.project);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join3;
    use tokio::sync::oneshot;

    use super::*;

    const PROJECT: ProjectId = ProjectId(1);

    fn len(slots: &Slots<u32>) -> usize {
        slots.table.lock().len()
    }

    #[tokio::test]
    async fn whoever_comes_after_a_start_that_failed_gets_what_those_get_who_waited() {
        let slots = Slots::new(|_: &u32| false);
        let (fails, failed) = oneshot::channel::<()>();
        let (succeeds, succeeded) = oneshot::channel::<()>();
        let first = slots.open(PROJECT, async |_| failed.await.map_err(drop).and(Err(())));
        let second = slots.open(PROJECT, async |_| succeeded.await.map(|()| 2).map_err(drop));
        let later = async {
            fails.send(()).expect("the first starts it");
            // The first has failed now, and the second starts it in its turn.
            while !succeeds.is_closed() && slots.table.lock().get(&PROJECT).is_some_and(|entry| entry.waiters > 1) {
                tokio::task::yield_now().await;
            }
            let third = slots.open(PROJECT, async |_| Ok::<_, ()>(3));
            succeeds.send(()).expect("the second starts it");
            third.await
        };
        assert_eq!(join3(first, second, later).await, (Err(()), Ok(2), Ok(2)));
        assert_eq!((slots.get(PROJECT), slots.running()), (Some(2), vec![2]));
    }

    #[tokio::test]
    async fn a_start_that_fails_or_is_given_up_leaves_nothing() {
        let slots = Slots::new(|_: &u32| false);
        assert_eq!(slots.open(PROJECT, async |_| Err::<u32, _>(())).await, Err(()));
        assert_eq!(len(&slots), 0);
        let never = slots.open(PROJECT, async |_| std::future::pending::<Result<u32, ()>>().await);
        assert!(futures_util::FutureExt::now_or_never(never).is_none());
        assert_eq!(len(&slots), 0);
    }

    #[tokio::test]
    async fn a_handle_that_is_over_makes_room_for_the_next() {
        static OVER: AtomicU32 = AtomicU32::new(0);
        let slots = Slots::new(|handle: &u32| *handle == OVER.load(Ordering::Relaxed));
        assert_eq!(slots.open(PROJECT, async |_| Ok::<_, ()>(1)).await, Ok(1));
        slots.forget(PROJECT);
        assert_eq!(slots.get(PROJECT), Some(1), "it runs");
        OVER.store(1, Ordering::Relaxed);
        assert_eq!(slots.get(PROJECT), None);
        assert_eq!(slots.open(PROJECT, async |_| Ok::<_, ()>(2)).await, Ok(2));
        slots.forget(PROJECT);
        assert_eq!(slots.running(), [2]);
    }

    #[tokio::test]
    async fn a_project_hears_of_a_change_that_comes_while_it_starts() {
        let slots = Slots::new(|_: &u32| false);
        let mut heard = None;
        let opened = slots.open(PROJECT, async |changed| {
            slots.changed(Some(PROJECT));
            heard = Some(changed);
            Ok::<_, ()>(1)
        });
        opened.await.expect("it starts");
        let heard = heard.expect("it was told where to hear");
        assert!(futures_util::FutureExt::now_or_never(heard.notified()).is_some());
    }
}
