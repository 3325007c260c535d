//! How many tables, partitions and consumer groups each principal has made. The catalog has these counts; a
//! batch has its own, for what it changes of them.

use std::{collections::HashMap, sync::Arc};

use contracts::maker::Made;

/// Counts by principal. What nobody has made is not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MadeCounts(HashMap<Arc<str>, [i64; 3]>);

impl MadeCounts {
    /// How many a principal has made; how many more, in the counts of a batch, or fewer.
    pub fn of(&self, principal: &str, what: Made) -> i64 {
        self.0.get(principal).map_or(0, |counts| counts[what as usize])
    }

    /// Counts one thing for its maker now, and no longer for the one before.
    pub fn replace(&mut self, what: Made, before: Option<&Arc<str>>, now: Option<&Arc<str>>) {
        if before == now {
            return;
        }
        for (principal, by) in [(before, -1), (now, 1)] {
            let Some(principal) = principal else { continue };
            let counts = self.0.entry(Arc::clone(principal)).or_default();
            counts[what as usize] += by;
            if *counts == [0; 3] {
                self.0.remove(principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::{catalog::TableHead, sequence::PartitionState, stored};

    #[test]
    fn each_thing_counts_for_one_maker_and_who_has_none_is_forgotten() {
        let (one, other): (Arc<str>, Arc<str>) = ("token:one".into(), "token:other".into());
        let mut made = MadeCounts::default();
        made.replace(Made::Tables, None, Some(&one));
        made.replace(Made::Tables, None, Some(&one));
        made.replace(Made::Groups, None, Some(&one));
        made.replace(Made::Tables, Some(&one), Some(&other));
        made.replace(Made::Tables, Some(&one), Some(&Arc::from("token:one")));
        assert_eq!((made.of(&one, Made::Tables), made.of(&other, Made::Tables)), (1, 1));
        assert_eq!((made.of(&one, Made::Groups), made.of(&one, Made::Partitions)), (1, 0));
        made.replace(Made::Tables, Some(&one), None);
        made.replace(Made::Groups, Some(&one), None);
        made.replace(Made::Tables, Some(&other), None);
        assert_eq!(made, MadeCounts::default());
    }

    #[test]
    fn what_was_stored_before_there_were_makers_is_nobodys() {
        let table = stored::Table { id: 7, ..stored::Table::default() };
        let head = TableHead::decode(&table.encode_to_vec()).unwrap();
        assert_eq!(head.made_by, None);
        let head = TableHead { made_by: Some("token:ci".into()), ..head };
        assert_eq!(TableHead::decode(&head.encode()), Some(head));
        let state = stored::PartitionState::default();
        assert_eq!(PartitionState::decode(&state.encode_to_vec()).unwrap().made_by, None);
    }
}
