//! Listing the keys of a namespace, a page at a time.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore};

use super::ObjectKv;
use crate::error::Result;
use crate::name::key_of;
use crate::record::is_value;
use crate::store::Page;

/// Names of keys (below the directory of all keys) with the number and length of their newest version.
type Newest = BTreeMap<String, (u64, u64)>;

impl ObjectKv {
    pub(super) async fn page(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page> {
        if limit == 0 {
            return Ok(Page::default());
        }
        let newest = self.gather(prefix, start_after, limit).await?;
        let mut page = Page::default();
        for (name, (_, length)) in newest {
            let Some(key) = key_of(&name).filter(|key| is_value(length) && key.starts_with(prefix)) else {
                continue;
            };
            if page.keys.len() == limit {
                page.next = page.keys.last().cloned();
                break;
            }
            page.keys.push(key);
        }
        Ok(page)
    }

    /// The keys after `start_after`: all of them, or the first ones in order, one more than `limit` of which exist.
    async fn gather(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Newest> {
        let first = self.namespace.prefix(prefix);
        let after = match start_after {
            Some(key) => self.name(key)?.version(u64::MAX).max(first.clone()),
            None => first.clone(),
        };
        let (directory, offset) = (self.path("", &self.namespace.keys())?, self.path("", &after)?);
        let sorted = self.shared.behaviour.lists_sorted;
        let (mut newest, mut existing) = (Newest::new(), 0);
        self.shared.requests.count_list();
        let mut objects = self.shared.objects.list_with_offset(Some(&directory), &offset);
        while let Some(object) = self.answered("", objects.try_next()).await? {
            let name = object.location.as_ref();
            // Not every server begins at the offset.
            if name <= after.as_str() {
                continue;
            }
            if !name.starts_with(&first) {
                // Sorted names that do not begin with the prefix any more will not again.
                if sorted {
                    break;
                }
                continue;
            }
            existing += self.add(&mut newest, &object);
            if sorted && existing > limit {
                break;
            }
        }
        Ok(newest)
    }

    /// Notes the version of a listed object; returns 1 when it is the first one of a key after one that exists.
    fn add(&self, newest: &mut Newest, object: &ObjectMeta) -> usize {
        let Some((name, number)) = self.namespace.parse(object.location.as_ref()) else {
            return 0;
        };
        if let Some(known) = newest.get_mut(name) {
            *known = (*known).max((number, object.size));
            return 0;
        }
        let previous = newest
            .last_key_value()
            .is_some_and(|(_, (_, length))| is_value(*length));
        newest.insert(name.to_owned(), (number, object.size));
        usize::from(previous)
    }
}
