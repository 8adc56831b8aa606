//! Which staging files become load files together (warehouse.md 9.2).

use std::collections::BTreeMap;

/// A staging file, as far as grouping looks at it.
#[derive(Clone, Debug)]
pub struct Sized<K> {
    /// Files of different kinds never come together.
    pub kind: K,
    /// Its number in the list.
    pub index: usize,
    /// Uncompressed bytes by table.
    pub bytes_of_table: BTreeMap<String, u64>,
}

/// Groups of files of one kind in which no table has more bytes than the limit, as far as one file alone keeps to it.
/// The same files always give the same groups.
pub fn groups<K: Ord + Clone>(files: Vec<Sized<K>>, limit: u64) -> Vec<Vec<usize>> {
    let mut by_kind: BTreeMap<K, Vec<Sized<K>>> = BTreeMap::new();
    for file in files {
        by_kind.entry(file.kind.clone()).or_default().push(file);
    }
    let biggest = |file: &Sized<K>| file.bytes_of_table.values().copied().max().unwrap_or(0);
    let mut all = Vec::new();
    for (_, mut of_kind) in by_kind {
        of_kind.sort_by_key(|file| (std::cmp::Reverse(biggest(file)), file.index));
        let mut groups: Vec<(BTreeMap<String, u64>, Vec<usize>)> = Vec::new();
        for file in of_kind {
            let fits = |sum: &BTreeMap<String, u64>| {
                let mut tables = file.bytes_of_table.iter();
                tables.all(|(table, bytes)| sum.get(table).copied().unwrap_or(0).saturating_add(*bytes) <= limit)
            };
            // One that is over the limit by itself stays alone.
            let is_full = |sum: &BTreeMap<String, u64>| sum.values().any(|bytes| *bytes > limit);
            match groups.iter_mut().find(|(sum, _)| !is_full(sum) && fits(sum)) {
                Some((sum, members)) => {
                    for (table, bytes) in &file.bytes_of_table {
                        let known = sum.entry(table.clone()).or_default();
                        *known = known.saturating_add(*bytes);
                    }
                    members.push(file.index);
                }
                None => groups.push((file.bytes_of_table.clone(), vec![file.index])),
            }
        }
        all.extend(groups.into_iter().map(|(_, mut members)| {
            members.sort_unstable();
            members
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(index: usize, kind: &str, sizes: &[(&str, u64)]) -> Sized<String> {
        let bytes_of_table = sizes.iter().map(|(table, bytes)| ((*table).to_owned(), *bytes)).collect();
        Sized { kind: kind.to_owned(), index, bytes_of_table }
    }

    #[test]
    fn the_biggest_go_first_into_the_first_group_with_room() {
        let files = vec![
            file(0, "a", &[("t", 3)]),
            file(1, "a", &[("t", 7), ("u", 1)]),
            file(2, "a", &[("t", 12)]),
            file(3, "a", &[("u", 9)]),
            file(4, "b", &[("t", 1)]),
            file(5, "a", &[("t", 4)]),
            file(6, "a", &[]),
        ];
        assert_eq!(groups(files, 10), [vec![2], vec![0, 1, 3, 6], vec![5], vec![4]]);
    }
}
