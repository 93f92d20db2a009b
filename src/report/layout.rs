//! How the steps of a stage are shown: alike steps as one, what runs at the same time side by side.

use std::collections::{BTreeMap, BTreeSet};

use super::describe;
use crate::model::text::list;
use crate::plan::{Step, StepId};

/// Steps that differ in one word only, such as the proxy's name, and begin at the same point.
pub(super) struct Group<'a> {
    /// The first of them.
    pub step: &'a Step,
    /// All of them.
    pub steps: Vec<&'a Step>,
    title: Pattern,
    why: Pattern,
    level: usize,
}

/// A sentence in which one word may vary.
struct Pattern {
    words: Vec<String>,
    varying: Option<usize>,
    values: Vec<String>,
}

/// Groups in the order in which they run; numbers index the stage's groups.
#[derive(Debug, PartialEq)]
pub(super) enum Tree {
    Leaf(usize),
    Series(Vec<Tree>),
    Parallel(Vec<Tree>),
}

impl Group<'_> {
    pub fn title(&self) -> String {
        self.title.text()
    }

    pub fn why(&self) -> String {
        self.why.text()
    }

    fn takes(&mut self, step: &Step, level: usize) -> bool {
        let alike = self.level == level
            && self.step.section == step.section
            && self.step.point_of_no_return == step.point_of_no_return
            && std::mem::discriminant(&self.step.work) == std::mem::discriminant(&step.work)
            && describe::details(self.step) == describe::details(step)
            && describe::undo(self.step) == describe::undo(step);
        let (title, why) = (words(&step.title), words(&step.why));
        alike && self.title.fits(&title) && self.why.fits(&why) && {
            self.title.add(&title);
            self.why.add(&why);
            true
        }
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        Self { words: words(text), varying: None, values: Vec::new() }
    }

    fn difference(&self, words: &[String]) -> Vec<usize> {
        (0..words.len()).filter(|index| self.words.get(*index) != words.get(*index)).collect()
    }

    fn fits(&self, words: &[String]) -> bool {
        words.len() == self.words.len()
            && match self.difference(words).as_slice() {
                [] => true,
                [one] => self.varying.is_none_or(|varying| varying == *one),
                _ => false,
            }
    }

    fn add(&mut self, words: &[String]) {
        let Some(index) = self.difference(words).first().copied() else { return };
        if self.varying.is_none() {
            self.varying = Some(index);
            self.values.push(self.words[index].clone());
        }
        if !self.values.contains(&words[index]) {
            self.values.push(words[index].clone());
        }
    }

    fn text(&self) -> String {
        let mut words = self.words.clone();
        if let Some(index) = self.varying {
            let mark = words[index].chars().next_back().filter(|c| ":,;".contains(*c));
            let stem = |value: &String| mark.and_then(|mark| value.strip_suffix(mark)).unwrap_or(value).to_owned();
            words[index] = list(self.values.iter().map(stem)) + &mark.map(String::from).unwrap_or_default();
        }
        words.join(" ")
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The groups of a stage's steps and how they run.
pub(super) fn layout<'a>(steps: &[&'a Step]) -> (Vec<Group<'a>>, Tree) {
    let mut levels: BTreeMap<&StepId, usize> = BTreeMap::new();
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut group_of: BTreeMap<&StepId, usize> = BTreeMap::new();
    for step in steps {
        let level = step.needs.iter().filter_map(|need| levels.get(need)).max().map_or(0, |level| level + 1);
        levels.insert(&step.id, level);
        let index = match groups.iter_mut().position(|group| group.takes(step, level)) {
            Some(index) => {
                groups[index].steps.push(step);
                index
            }
            None => {
                let (title, why) = (Pattern::new(&step.title), Pattern::new(&step.why));
                groups.push(Group { step, steps: vec![step], title, why, level });
                groups.len() - 1
            }
        };
        group_of.insert(&step.id, index);
    }
    let mut edges = BTreeSet::new();
    for step in steps {
        for need in &step.needs {
            if let (Some(from), Some(to)) = (group_of.get(need), group_of.get(&step.id)) {
                edges.insert((*from, *to));
            }
        }
    }
    let all: BTreeSet<usize> = (0..groups.len()).collect();
    let tree = split(&all, &edges);
    (groups, tree)
}

/// Takes a graph apart: unconnected parts run at the same time; otherwise its ends are taken off. Where the graph is not made of
/// series and parallels, the tree shows more order than there is, never less.
fn split(nodes: &BTreeSet<usize>, edges: &BTreeSet<(usize, usize)>) -> Tree {
    let parts = components(nodes, edges);
    match parts.as_slice() {
        [] => Tree::Series(Vec::new()),
        [one] if one.len() == 1 => one.first().map_or(Tree::Series(Vec::new()), |node| Tree::Leaf(*node)),
        [_] => {
            let inside = |edge: &&(usize, usize)| nodes.contains(&edge.0) && nodes.contains(&edge.1);
            let with_need: BTreeSet<usize> = edges.iter().filter(inside).map(|edge| edge.1).collect();
            let needed: BTreeSet<usize> = edges.iter().filter(inside).map(|edge| edge.0).collect();
            let sources: BTreeSet<usize> = nodes.difference(&with_need).copied().collect();
            let sinks: BTreeSet<usize> = nodes.difference(&needed).copied().collect();
            let without_sinks: BTreeSet<usize> = nodes.difference(&sinks).copied().collect();
            let off_the_end = sources.len() > 1 && (sinks.len() == 1 || components(&without_sinks, edges).len() > 1);
            let (first, second) = match off_the_end {
                true => (without_sinks, sinks),
                false => {
                    let rest = nodes.difference(&sources).copied().collect();
                    (sources, rest)
                }
            };
            if first.is_empty() || second.is_empty() {
                return Tree::Series(nodes.iter().map(|node| Tree::Leaf(*node)).collect());
            }
            let mut series = Vec::new();
            for tree in [split(&first, edges), split(&second, edges)] {
                match tree {
                    Tree::Series(trees) => series.extend(trees),
                    tree => series.push(tree),
                }
            }
            Tree::Series(series)
        }
        many => Tree::Parallel(many.iter().map(|part| split(part, edges)).collect()),
    }
}

/// The connected parts, whatever the edges' direction, in the order of their first nodes.
fn components(nodes: &BTreeSet<usize>, edges: &BTreeSet<(usize, usize)>) -> Vec<BTreeSet<usize>> {
    let mut parts: Vec<BTreeSet<usize>> = Vec::new();
    let mut left = nodes.clone();
    while let Some(start) = left.pop_first() {
        let mut part = BTreeSet::from([start]);
        let mut open = vec![start];
        while let Some(node) = open.pop() {
            for (from, to) in edges {
                let other = if *from == node {
                    *to
                } else if *to == node {
                    *from
                } else {
                    continue;
                };
                if left.remove(&other) {
                    part.insert(other);
                    open.push(other);
                }
            }
        }
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(count: usize, edges: &[(usize, usize)]) -> String {
        fn show(tree: &Tree) -> String {
            let all = |trees: &[Tree], mark: &str| trees.iter().map(show).collect::<Vec<_>>().join(mark);
            match tree {
                Tree::Leaf(node) => node.to_string(),
                Tree::Series(trees) => all(trees, ">"),
                Tree::Parallel(trees) => format!("({})", all(trees, "|")),
            }
        }
        show(&split(&(0..count).collect(), &edges.iter().copied().collect()))
    }

    #[test]
    fn lanes_stay_whole_between_a_gate_and_a_check() {
        assert_eq!(tree(6, &[(0, 1), (1, 2), (0, 3), (3, 4), (2, 5), (4, 5)]), "0>(1>2|3>4)>5");
    }

    #[test]
    fn unconnected_steps_run_at_the_same_time() {
        assert_eq!(tree(3, &[(0, 1)]), "(0>1|2)");
    }

    #[test]
    fn what_is_not_series_parallel_shows_more_order_never_less() {
        assert_eq!(tree(4, &[(0, 2), (0, 3), (1, 3)]), "(0|1)>(2|3)");
    }

    #[test]
    fn one_varying_word_becomes_a_list() {
        let mut pattern = Pattern::new("orderform: 10% of west at west-lb1");
        for other in ["orderform: 10% of west at west-lb2", "orderform: 10% of west at east-lb1"] {
            assert!(pattern.fits(&words(other)));
            pattern.add(&words(other));
        }
        assert_eq!(pattern.text(), "orderform: 10% of west at west-lb1, west-lb2 and east-lb1");
        assert!(!pattern.fits(&words("hoplinks: 10% of west at west-lb1")));
    }
}
