//! The walk that looks up a topic name or a filter in the tree.

use super::effects::RuleEffects;
use super::{ClientNames, HERE, Name, Named, Piece, REST, Tree};
use crate::policy::acl::{Actions, RuleEffect};

/// One walk. Each step takes the node, the levels that are left (`None` after the last one), and whether it
/// is the first step.
pub(super) struct Walk<'a, const WHY: bool> {
    tree: &'a Tree,
    names: ClientNames<'a>,
    /// Whether the topic or filter begins with `$`.
    dollar: bool,
    pub(super) found: RuleEffects,
    /// With `WHY`: the effect and the actions of the rule that is searched for.
    pub(super) sought: (RuleEffect, Actions),
    /// With `WHY`: the line of the first such rule.
    pub(super) line: u32,
}

impl<'a, const WHY: bool> Walk<'a, WHY> {
    pub(super) fn new(tree: &'a Tree, names: ClientNames<'a>, text: &str) -> Walk<'a, WHY> {
        Walk {
            tree,
            names,
            dollar: text.starts_with('$'),
            found: RuleEffects::default(),
            sought: (RuleEffect::Deny, Actions::NONE),
            line: 0,
        }
    }

    #[inline]
    fn note(&mut self, effects: RuleEffects, number: u32, of: usize) {
        self.found.add(effects);
        let (effect, actions) = self.sought;
        if WHY && self.line == 0 && effects.has(effect, actions) {
            self.line = self.tree.line_at(number, of, effect, actions);
        }
    }

    /// The rules that match a topic name. A single function for this and `covering`, with a constant
    /// parameter for `+` and `#`, would cost each query 1 to 8 more instructions, of about 360 to 1,030.
    pub(super) fn matching(&mut self, mut number: u32, mut rest: Option<&[u8]>, mut is_first: bool) {
        loop {
            let node = self.tree.node(number);
            let wildcards_match = !(is_first && self.dollar);
            if wildcards_match {
                self.note(node.rest, number, REST);
            }
            let Some(levels) = rest else {
                return self.note(node.here, number, HERE);
            };
            let (level, behind) = split(levels);
            if node.any != 0 && wildcards_match {
                self.matching(node.any, behind, false);
            }
            for named in node.named.of(&self.tree.named) {
                match self.expansion(named, is_first) {
                    Expansion::Usable => {
                        if let Some(behind) = self.behind_name(named, levels) {
                            self.matching(named.node, behind, false);
                        }
                    }
                    Expansion::Unusable => self.found.add(named.denied_below),
                    Expansion::Never => {}
                }
            }
            let Some(child) = self.tree.child(node, level) else { return };
            (number, rest, is_first) = (child, behind, false);
        }
    }

    /// The rules that each match all topics of a filter.
    pub(super) fn covering(&mut self, number: u32, rest: Option<&[u8]>, is_first: bool) {
        let node = self.tree.node(number);
        let wildcards_match = !(is_first && self.dollar);
        if wildcards_match {
            self.note(node.rest, number, REST);
        }
        let Some(levels) = rest else {
            return self.note(node.here, number, HERE);
        };
        let (level, behind) = split(levels);
        // `#` also matches the parent. The rules that match all of this were found above.
        if level == b"#" {
            return;
        }
        if node.any != 0 && wildcards_match {
            self.covering(node.any, behind, false);
        }
        for named in node.named.of(&self.tree.named) {
            match self.expansion(named, is_first) {
                Expansion::Usable => {
                    if let Some(behind) = self.behind_name(named, levels) {
                        self.covering(named.node, behind, false);
                    }
                }
                Expansion::Unusable => self.found.add(named.denied_below),
                Expansion::Never => {}
            }
        }
        if level != b"+"
            && let Some(child) = self.tree.child(node, level)
        {
            self.covering(child, behind, false);
        }
    }

    /// The rules that match any topic of a filter.
    pub(super) fn meeting(&mut self, number: u32, rest: Option<&[u8]>, is_first: bool) {
        let node = self.tree.node(number);
        let wildcards_match = !(is_first && self.dollar);
        if wildcards_match {
            self.note(node.rest, number, REST);
        }
        let Some(levels) = rest else {
            return self.note(node.here, number, HERE);
        };
        let (level, behind) = split(levels);
        let is_rest = level == b"#";
        if is_rest {
            self.note(node.here, number, HERE);
        }
        // After `#`, anything in the rules may match.
        let behind = if is_rest { Some(&b"#"[..]) } else { behind };
        let is_wild = is_rest || level == b"+";
        if node.any != 0 && wildcards_match {
            self.meeting(node.any, behind, false);
        }
        for named in node.named.of(&self.tree.named) {
            match self.expansion(named, is_first) {
                Expansion::Usable => {
                    if let Some(behind) = self.behind_met_name(named, levels) {
                        self.meeting(named.node, behind, false);
                    }
                }
                Expansion::Unusable => self.found.add(named.denied_below),
                Expansion::Never => {}
            }
        }
        if is_wild {
            for child in node.children.of(&self.tree.children) {
                if !(is_first && child.text.of(&self.tree.texts).starts_with(b"$")) {
                    self.meeting(child.node, behind, false);
                }
            }
        } else if let Some(child) = self.tree.child(node, level) {
            self.meeting(child, behind, false);
        }
    }

    fn expansion(&self, named: &Named, is_first: bool) -> Expansion {
        let mut expansion = Expansion::Usable;
        for (position, piece) in named.pieces.of(&self.tree.pieces).iter().enumerate() {
            match self.name(*piece) {
                Some(Name::Missing) => return Expansion::Never,
                Some(Name::Unusable) => expansion = Expansion::Unusable,
                // A client whose name begins with `$` gets no rights on topics such as `$SYS`.
                Some(Name::Plain(name)) if is_first && position == 0 && name.starts_with(b"$") => {
                    expansion = Expansion::Unusable;
                }
                Some(Name::Plain(_)) | None => {}
            }
        }
        expansion
    }

    /// The levels after the text of a usable pattern, if `levels` begins with that text. The text is one
    /// level, or more if a name has slashes.
    fn behind_name<'b>(&self, named: &Named, levels: &'b [u8]) -> Option<Option<&'b [u8]>> {
        let mut left = levels;
        for piece in named.pieces.of(&self.tree.pieces) {
            left = left.strip_prefix(self.text(*piece)?)?;
        }
        match left {
            [] => Some(None),
            [b'/', behind @ ..] => Some(Some(behind)),
            _ => None,
        }
    }

    /// The same for the levels of a filter. Its wildcards match the text of the pattern.
    fn behind_met_name<'b>(&self, named: &Named, levels: &'b [u8]) -> Option<Option<&'b [u8]>> {
        let pieces = named.pieces.of(&self.tree.pieces);
        if pieces.iter().any(|piece| self.text(*piece).is_none()) {
            return None;
        }
        let mut bytes =
            pieces.iter().flat_map(|piece| self.text(*piece).unwrap_or_default()).copied().peekable();
        let mut rest = Some(levels);
        loop {
            // The filter ends before the text does, unless it has `#` there.
            let (level, behind) = split(rest?);
            if level == b"#" {
                return Some(Some(b"#"));
            }
            let mut wanted = level.iter();
            let is_any = level == b"+";
            while let Some(byte) = bytes.next_if(|byte| *byte != b'/') {
                if !is_any && wanted.next() != Some(&byte) {
                    return None;
                }
            }
            if !is_any && wanted.next().is_some() {
                return None;
            }
            rest = behind;
            // This skips the slash, if there is another level.
            if bytes.next().is_none() {
                return Some(rest);
            }
        }
    }

    /// The text of a part of a usable pattern.
    fn text(&self, piece: Piece) -> Option<&'a [u8]> {
        match (self.name(piece), piece) {
            (Some(Name::Plain(name)), _) => Some(name),
            (None, Piece::Text(text)) => Some(text.of(&self.tree.texts)),
            _ => None,
        }
    }

    fn name(&self, piece: Piece) -> Option<Name<'a>> {
        match piece {
            Piece::User => Some(self.names.user),
            Piece::ClientId => Some(self.names.client_id),
            Piece::Text(_) => None,
        }
    }
}

/// How a level with names applies to a client.
enum Expansion {
    /// The client has no such name, so the rules do not apply to it.
    Never,
    /// A name can't stand for itself, so rules deny more and allow nothing.
    Unusable,
    Usable,
}

/// The first level, and the text after its slash.
fn split(levels: &[u8]) -> (&[u8], Option<&[u8]>) {
    match levels.iter().position(|&byte| byte == b'/') {
        Some(slash) => (&levels[..slash], Some(&levels[slash + 1..])),
        None => (levels, None),
    }
}
