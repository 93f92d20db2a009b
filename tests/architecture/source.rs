//! Finds the paths in Rust source: enough of the language for `use` trees, paths in code, modules in files, text and comments.

use std::collections::BTreeMap;

/// A path as it was written, from `crate` or from another crate's name on.
#[derive(Clone, Debug)]
pub struct Path {
    /// Its line.
    pub line: usize,
    /// Its parts.
    pub segments: Vec<String>,
}

/// A file of `src`.
pub struct Source {
    /// Its path in the repository.
    pub name: String,
    /// The module that it is.
    pub module: Vec<String>,
    /// Everything that it mentions.
    pub paths: Vec<Path>,
    /// Its lines before its tests.
    pub lines: usize,
}

impl Source {
    /// Reads a file; `name` begins with `src/`.
    pub fn parse(name: &str, text: &str) -> Self {
        let stem = name.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        let module: Vec<String> = match stem {
            "lib" | "main" => Vec::new(),
            stem => stem.split('/').map(str::to_owned).collect(),
        };
        let tokens = tokens(text);
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        Self { name: name.to_owned(), paths: Reader::new(&tokens, &module).read(), module, lines }
    }
}

#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Colons,
    Sign(char),
}

/// Words and signs with their lines; text, characters, lifetimes and comments are left out.
fn tokens(text: &str) -> Vec<(usize, Token)> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let (mut found, mut index, mut line) = (Vec::new(), 0, 1);
    while index < chars.len() {
        let begin = index;
        let mut token = None;
        match at(index) {
            '/' if at(index + 1) == '/' => {
                while index < chars.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            '/' if at(index + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(index), at(index + 1)) {
                        ('/', '*') => (depth, index) = (depth + 1, index + 2),
                        ('*', '/') => (depth, index) = (depth - 1, index + 2),
                        _ => index += 1,
                    }
                    if depth == 0 || index >= chars.len() {
                        break;
                    }
                }
            }
            '"' => index = after_text(&chars, index),
            // A character, or a lifetime.
            '\'' if at(index + 1) == '\\' => {
                index += 3;
                while index < chars.len() && at(index) != '\'' {
                    index += 1;
                }
                index += 1;
            }
            '\'' if at(index + 2) == '\'' => index += 3,
            '\'' => index += 1,
            first if first.is_alphabetic() || first == '_' => {
                while at(index).is_alphanumeric() || at(index) == '_' {
                    index += 1;
                }
                let word: String = chars[begin..index].iter().collect();
                let raw = matches!(word.as_str(), "r" | "br" | "cr") && matches!(at(index), '"' | '#');
                match raw.then(|| after_raw_text(&chars, index)).flatten() {
                    Some(end) => index = end,
                    None => token = Some(Token::Word(word)),
                }
            }
            ':' if at(index + 1) == ':' => {
                token = Some(Token::Colons);
                index += 2;
            }
            sign => {
                token = (!sign.is_whitespace()).then_some(Token::Sign(sign));
                index += 1;
            }
        }
        found.extend(token.map(|token| (line, token)));
        line += chars[begin..index.min(chars.len())].iter().filter(|char| **char == '\n').count();
    }
    found
}

fn after_text(chars: &[char], quote: usize) -> usize {
    let mut index = quote + 1;
    while index < chars.len() && chars[index] != '"' {
        index += if chars[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

/// The end of `#"…"#`, with any number of signs; none if this is a raw identifier.
fn after_raw_text(chars: &[char], begin: usize) -> Option<usize> {
    let signs = chars[begin..].iter().take_while(|char| **char == '#').count();
    let mut index = begin + signs;
    if chars.get(index) != Some(&'"') {
        return None;
    }
    loop {
        index += 1;
        let rest = chars.get(index..)?;
        if rest.first() == Some(&'"') && rest.len() > signs && rest[1..=signs].iter().all(|char| *char == '#') {
            return Some(index + 1 + signs);
        }
    }
}

struct Reader<'a> {
    tokens: &'a [(usize, Token)],
    index: usize,
    /// The module of the file, and those opened in it.
    module: Vec<String>,
    /// Depths of braces at which modules in the file were opened.
    opened: Vec<usize>,
    depth: usize,
    /// Children that were declared: their names begin paths.
    children: Vec<String>,
    /// What names stand for after `use`.
    imports: BTreeMap<String, Vec<String>>,
    paths: Vec<Path>,
}

impl<'a> Reader<'a> {
    fn new(tokens: &'a [(usize, Token)], module: &[String]) -> Self {
        Self {
            tokens,
            index: 0,
            module: module.to_vec(),
            opened: Vec::new(),
            depth: 0,
            children: Vec::new(),
            imports: BTreeMap::new(),
            paths: Vec::new(),
        }
    }

    fn peek(&self, ahead: usize) -> Option<&'a Token> {
        self.tokens.get(self.index + ahead).map(|(_, token)| token)
    }

    fn word(&self, ahead: usize) -> Option<&'a str> {
        match self.peek(ahead) {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    fn is(&self, ahead: usize, sign: char) -> bool {
        self.peek(ahead) == Some(&Token::Sign(sign))
    }

    fn read(mut self) -> Vec<Path> {
        while let Some(token) = self.peek(0) {
            match token {
                Token::Word(word) if word == "mod" && self.word(1).is_some() => self.module(),
                Token::Word(word) if word == "use" => {
                    self.index += 1;
                    self.tree(&[], true);
                }
                Token::Word(_) => self.tree(&[], false),
                Token::Sign('{') => {
                    self.depth += 1;
                    self.index += 1;
                }
                Token::Sign('}') => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.opened.last() == Some(&self.depth) {
                        self.opened.pop();
                        self.module.pop();
                    }
                    self.index += 1;
                }
                // A path that begins with `::`, or goes on after generics: not ours.
                Token::Colons => {
                    self.index += 1;
                    while self.word(0).is_some() && self.peek(1) == Some(&Token::Colons) {
                        self.index += 2;
                    }
                    self.index += usize::from(self.word(0).is_some());
                }
                Token::Sign(_) => self.index += 1,
            }
        }
        self.paths
    }

    /// `mod name;` or `mod name {`.
    fn module(&mut self) {
        let name = self.word(1).unwrap_or_default().to_owned();
        if self.is(2, '{') {
            self.opened.push(self.depth);
            self.depth += 1;
            self.module.push(name);
        } else {
            self.children.push(name);
        }
        self.index += 3;
    }

    /// A path, or a tree of them in `use`, that goes on after `before`.
    fn tree(&mut self, before: &[String], in_use: bool) {
        let line = self.tokens[self.index.min(self.tokens.len() - 1)].0;
        let mut segments = before.to_vec();
        loop {
            if let Some(word) = self.word(0) {
                segments.push(word.to_owned());
                self.index += 1;
                if self.peek(0) == Some(&Token::Colons) {
                    self.index += 1;
                    continue;
                }
            } else if in_use && self.is(0, '{') {
                self.index += 1;
                while self.index < self.tokens.len() && !self.is(0, '}') {
                    if self.is(0, ',') {
                        self.index += 1;
                    } else {
                        self.tree(&segments, true);
                    }
                }
                self.index += 1;
                return;
            } else if in_use && (self.is(0, '*') || self.peek(0) == Some(&Token::Colons)) {
                self.index += 1;
                continue;
            } else if in_use {
                // Not a tree that this reader knows: never stand still.
                self.index += usize::from(segments.len() == before.len());
            }
            break;
        }
        if in_use && segments.last().is_some_and(|last| last == "self") && segments.len() > 1 {
            segments.pop();
        }
        let absolute = self.absolute(&segments, in_use);
        if in_use && !absolute.is_empty() {
            let mut name = absolute.last().cloned();
            if self.word(0) == Some("as") {
                name = self.word(1).map(str::to_owned);
                self.index += 2;
            }
            self.imports.extend(name.map(|name| (name, absolute.clone())));
        }
        if absolute.len() > 1 {
            self.paths.push(Path { line, segments: absolute });
        }
    }

    /// The path from the crate's root on, or as it is where it begins elsewhere.
    fn absolute(&self, segments: &[String], in_use: bool) -> Vec<String> {
        let Some(first) = segments.first() else { return Vec::new() };
        let own = || std::iter::once("crate".to_owned()).chain(self.module.iter().cloned());
        let ups = segments.iter().take_while(|segment| *segment == "super").count();
        match first.as_str() {
            "super" => {
                let kept = (self.module.len() + 1).saturating_sub(ups).max(1);
                own().take(kept).chain(segments[ups..].iter().cloned()).collect()
            }
            "self" => {
                let rest = &segments[1..];
                // In code a lone `self` is a value.
                if rest.first().is_some_and(|next| next == "super") {
                    return self.absolute(rest, in_use);
                }
                if in_use || !rest.is_empty() { own().chain(rest.iter().cloned()).collect() } else { Vec::new() }
            }
            name if self.children.iter().any(|child| child == name) && (in_use || segments.len() > 1) => {
                own().chain(segments.iter().cloned()).collect()
            }
            name if !in_use && segments.len() > 1 => match self.imports.get(name) {
                Some(import) => import.iter().chain(&segments[1..]).cloned().collect(),
                None => segments.to_vec(),
            },
            _ => segments.to_vec(),
        }
    }
}
