//! Builds the tree: rules are inserted one by one, and the nodes are then packed into one array for each
//! kind.

use std::collections::BTreeMap;
use std::ops::Range;

use super::effects::RuleEffects;
use super::{Child, HERE, Named, Node, Piece, REST, Root, RuleLine, Span, Tree, Uses};
use crate::policy::acl::pattern::{Level, Part};

/// A tree under construction.
pub(in crate::policy::acl) struct Growing {
    nodes: Vec<GrowingNode>,
}

#[derive(Default)]
struct GrowingNode {
    children: BTreeMap<Box<str>, u32>,
    named: Vec<(Vec<GrowingPiece>, u32)>,
    any: u32,
    here: RuleEffects,
    rest: RuleEffects,
    /// The place, the effects and the line of each rule that ends here.
    lines: Vec<(usize, RuleEffects, u32)>,
}

impl GrowingNode {
    fn add(&mut self, of: usize, effects: RuleEffects, line: u32) {
        if of == HERE {
            self.here.add(effects)
        } else {
            self.rest.add(effects)
        }
        // A rule adds nothing to an earlier one of the same effects.
        if line != 0 && !self.lines.iter().any(|known| (known.0, known.1) == (of, effects)) {
            self.lines.push((of, effects, line));
        }
    }
}

#[derive(PartialEq, Eq)]
enum GrowingPiece {
    Text(Box<str>),
    User,
    ClientId,
}

impl Default for Growing {
    fn default() -> Growing {
        Growing { nodes: vec![GrowingNode::default()] }
    }
}

impl Growing {
    pub(in crate::policy::acl) fn new_root(&mut self) -> Root {
        let number = u32::try_from(self.nodes.len()).expect("ENTRIES_MAX bounds the nodes");
        self.nodes.push(GrowingNode::default());
        number
    }

    pub(in crate::policy::acl) fn insert(
        &mut self,
        root: Root,
        levels: &[Level<'_>],
        effects: RuleEffects,
        line: u32,
    ) {
        let mut number = root;
        for level in levels {
            number = match level {
                Level::Rest => return self.nodes[number as usize].add(REST, effects, line),
                Level::Any => self.any(number),
                Level::Text(text) => self.child(number, text),
                Level::Named(parts) => self.named(number, parts),
            };
        }
        self.nodes[number as usize].add(HERE, effects, line);
    }

    fn any(&mut self, number: u32) -> u32 {
        if self.nodes[number as usize].any == 0 {
            self.nodes[number as usize].any = self.new_root();
        }
        self.nodes[number as usize].any
    }

    fn child(&mut self, number: u32, text: &str) -> u32 {
        if let Some(child) = self.nodes[number as usize].children.get(text) {
            return *child;
        }
        let child = self.new_root();
        self.nodes[number as usize].children.insert(text.into(), child);
        child
    }

    fn named(&mut self, number: u32, parts: &[Part<'_>]) -> u32 {
        let pieces = parts.iter().map(|part| match part {
            Part::Text(text) => GrowingPiece::Text((*text).into()),
            Part::User => GrowingPiece::User,
            Part::ClientId => GrowingPiece::ClientId,
        });
        let pieces: Vec<GrowingPiece> = pieces.collect();
        if let Some((_, node)) =
            self.nodes[number as usize].named.iter().find(|(present, _)| *present == pieces)
        {
            return *node;
        }
        let node = self.new_root();
        self.nodes[number as usize].named.push((pieces, node));
        node
    }

    pub(in crate::policy::acl) fn finish(self) -> Tree {
        let denied_below = self.denied_below();
        let lines = (0..).zip(&self.nodes).flat_map(|(number, node)| {
            let of_node = move |&(of, effects, line)| RuleLine { node: number, of, effects, line };
            node.lines.iter().map(of_node)
        });
        let lines = lines.collect();
        let mut packing = Packing::default();
        let nodes = self.nodes.into_iter().map(|node| packing.node(node, &denied_below)).collect();
        Tree {
            nodes,
            children: packing.children.into(),
            named: packing.named.into(),
            pieces: packing.pieces.into(),
            texts: packing.texts.into(),
            uses: packing.uses,
            lines,
        }
    }

    /// For each node, everything that is denied by the rules that pass through it.
    fn denied_below(&self) -> Vec<RuleEffects> {
        let mut denied: Vec<RuleEffects> = vec![RuleEffects::default(); self.nodes.len()];
        // Children have higher numbers than their parent.
        for (number, node) in self.nodes.iter().enumerate().rev() {
            let mut all = node.here;
            all.add(node.rest);
            let named = node.named.iter().map(|(_, child)| child);
            for child in node.children.values().chain(named).chain((node.any != 0).then_some(&node.any)) {
                all.add(denied[*child as usize]);
            }
            denied[number] = RuleEffects::default().with_denials_of(all);
        }
        denied
    }
}

/// The parts of nodes that vary in length, in sequence.
#[derive(Default)]
struct Packing {
    children: Vec<Child>,
    named: Vec<Named>,
    pieces: Vec<Piece>,
    texts: Vec<u8>,
    uses: Uses,
}

impl Packing {
    fn node(&mut self, node: GrowingNode, denied_below: &[RuleEffects]) -> Node {
        let first_child = self.children.len();
        for (text, child) in node.children {
            let text = self.text(&text);
            self.children.push(Child { text, node: child });
        }
        let first_named = self.named.len();
        for (pieces, child) in node.named {
            let first_piece = self.pieces.len();
            for piece in pieces {
                let piece = self.piece(piece);
                self.pieces.push(piece);
            }
            let pieces = span(first_piece..self.pieces.len());
            self.named.push(Named { pieces, node: child, denied_below: denied_below[child as usize] });
        }
        Node {
            children: span(first_child..self.children.len()),
            named: span(first_named..self.named.len()),
            any: node.any,
            here: node.here,
            rest: node.rest,
        }
    }

    fn piece(&mut self, piece: GrowingPiece) -> Piece {
        match piece {
            GrowingPiece::Text(text) => Piece::Text(self.text(&text)),
            GrowingPiece::User => {
                self.uses.user = true;
                Piece::User
            }
            GrowingPiece::ClientId => {
                self.uses.client_id = true;
                Piece::ClientId
            }
        }
    }

    fn text(&mut self, text: &str) -> Span {
        let start = self.texts.len();
        self.texts.extend_from_slice(text.as_bytes());
        span(start..self.texts.len())
    }
}

fn span(range: Range<usize>) -> Span {
    // The bounds on entries, levels and the size of a file are far below this.
    let number = |count: usize| u32::try_from(count).expect("an access list is smaller than 4 GiB");
    Span { start: number(range.start), len: number(range.len()) }
}
