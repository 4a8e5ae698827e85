//! A chat template as one of Go's `text/template`, which Ollama renders: found from what the model's own template makes
//! of conversations, and held against what it makes of others.

use std::fmt::Write as _;

use crate::data::{ChatFormat, Conversation};

/// What stands around the contents of a conversation, each a text without variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pieces {
    /// Before the first turn of the user where there is no system text.
    begin: String,
    /// Before the system text, and from it to the first turn of the user; none where the template takes none.
    system: Option<(String, String)>,
    /// From a turn of the user to the answer that is there.
    answer: String,
    /// From an answer to the next turn of the user.
    next: String,
    /// From the last turn of the user to where the model goes on.
    end: String,
}

/// Contents that no template has in it, each once in a conversation.
const CONTENTS: [&str; 6] = ["Qzsystem", "Qzuser", "Qzanswer", "Qzagain", "Qzanother", "Qzlast"];

/// Roles and contents.
type Turns<'a> = [(&'a str, &'a str)];

impl Pieces {
    /// Those of a model's template; none where it is no such template. The text that begins every sequence is left out
    /// where the tokenizer puts its token in front, which Ollama's does too.
    pub(super) fn of(chat: &ChatFormat, bos: Option<&str>) -> Option<Self> {
        let [system, user, answer, again, another, last] = CONTENTS;
        let render = |turns: &Turns<'_>| {
            let mut conversation = Conversation::default();
            for (role, content) in turns {
                conversation.push(role, content);
            }
            let text = chat.render(&conversation, true).ok()?;
            Some(bos.and_then(|bos| text.strip_prefix(bos)).unwrap_or(&text).to_owned())
        };
        let three = [("user", user), ("assistant", answer), ("user", again)];
        let (begin, rest) = split(&render(&three)?, user)?;
        let (to_answer, rest) = split(&rest, answer)?;
        let (next, end) = split(&rest, again)?;
        let system = render(&[("system", system), ("user", user)]).and_then(|text| {
            let (before, rest) = split(&text, system)?;
            Some((before, split(&rest, user)?.0))
        });
        let found = Self { begin, system, answer: to_answer, next, end };
        let long = [
            ("system", CONTENTS[0]),
            ("user", user),
            ("assistant", answer),
            ("user", again),
            ("assistant", another),
            ("user", last),
        ];
        let mut tried: Vec<&Turns<'_>> = vec![&long[1..2], &long[1..4], &long[1..]];
        if found.system.is_some() {
            tried.extend([&long[..2], &long[..4], &long]);
        }
        let same = tried.into_iter().all(|turns| render(turns).as_ref() == Some(&found.render(turns)));
        (same && found.literal()).then_some(found)
    }

    /// What the Go template makes of a conversation.
    fn render(&self, turns: &Turns<'_>) -> String {
        let (mut out, mut turns) = (String::new(), turns);
        match (turns.first(), &self.system) {
            (Some(("system", content)), Some((before, after))) => {
                out += &[before, *content, after].concat();
                turns = &turns[1..];
            }
            _ => out += &self.begin,
        }
        for (i, (role, content)) in turns.iter().enumerate() {
            out += content;
            out += match (*role, i + 1 == turns.len()) {
                ("user", true) => &self.end,
                ("user", false) => &self.answer,
                (_, true) => "",
                (_, false) => &self.next,
            };
        }
        out
    }

    /// Whether its texts can stand in a Go template in a Modelfile: nothing that either takes for its own.
    fn literal(&self) -> bool {
        let texts = [&self.begin, &self.answer, &self.next, &self.end];
        let system = self.system.iter().flat_map(|(before, after)| [before, after]);
        let sound = |text: &String| {
            // A Modelfile's reader drops characters that are not printed.
            let printed = |c: char| c == '\n' || c == ' ' || !(c.is_control() || c.is_whitespace());
            !["{{", "}}", "\"\"\""].iter().any(|mark| text.contains(mark)) && text.chars().all(printed)
        };
        texts.into_iter().chain(system).all(sound)
    }

    /// The template's text. Ollama gives all system texts as one, and has them among the messages, too.
    pub(super) fn text(&self) -> String {
        let mut out = match &self.system {
            Some((before, after)) => {
                format!(
                    "{{{{ if .System }}}}{before}{{{{ .System }}}}{after}{{{{ else }}}}{}{{{{ end }}}}",
                    self.begin
                )
            }
            None => self.begin.clone(),
        };
        let _ = write!(
            out,
            "{{{{ range $i, $_ := .Messages }}}}{{{{ $last := eq (len (slice $.Messages $i)) 1 }}}}\
             {{{{ if eq .Role \"user\" }}}}{{{{ .Content }}}}\
             {{{{ if $last }}}}{}{{{{ else }}}}{}{{{{ end }}}}\
             {{{{ else if eq .Role \"assistant\" }}}}{{{{ .Content }}}}\
             {{{{ if not $last }}}}{}{{{{ end }}}}\
             {{{{ end }}}}{{{{ end }}}}",
            self.end, self.answer, self.next
        );
        out
    }
}

/// What is before and after a content that is there once.
fn split(text: &str, content: &str) -> Option<(String, String)> {
    let (before, after) = text.split_once(content)?;
    (!after.contains(content)).then(|| (before.to_owned(), after.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TokenizerInfo;

    fn pieces(template: &str) -> Option<Pieces> {
        let info = TokenizerInfo {
            bos_token: Some("<s>".to_owned()),
            eos_token: Some("</s>".to_owned()),
            chat_template: Some(template.to_owned()),
            add_bos_token: Some(true),
            ..TokenizerInfo::default()
        };
        Pieces::of(&ChatFormat::new(&info).expect("a template"), Some("<s>"))
    }

    const CHATML: &str = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}\
        {% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    /// What Go's `text/template` makes of the text was read off its documentation: everything outside of braces is
    /// copied, `eq`, `len`, `slice`, `not` are its functions.
    #[test]
    fn a_default_system_text_and_turns_are_found() {
        let found = pieces(CHATML).expect("ChatML");
        assert_eq!(
            found.text(),
            "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n<|im_start|>user\n{{ else }}\
             <|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{{ end }}\
             {{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}\
             {{ if eq .Role \"user\" }}{{ .Content }}\
             {{ if $last }}<|im_end|>\n<|im_start|>assistant\n{{ else }}<|im_end|>\n<|im_start|>assistant\n{{ end }}\
             {{ else if eq .Role \"assistant\" }}{{ .Content }}\
             {{ if not $last }}<|im_end|>\n<|im_start|>user\n{{ end }}{{ end }}{{ end }}"
        );
    }

    /// Llama 2's: the system text inside the first turn, the beginning of a sequence before every turn of the user.
    #[test]
    fn a_system_text_inside_a_turn_is_found() {
        let template = "{% if messages[0].role == 'system' %}{% set s = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}\
            {% set turns = messages[1:] %}{% else %}{% set s = '' %}{% set turns = messages %}{% endif %}\
            {% for m in turns %}{% if m.role == 'user' %}<s>[INST] {{ (s if loop.first else '') + m.content }} [/INST]\
            {% else %} {{ m.content }} </s>{% endif %}{% endfor %}";
        let found = pieces(template).expect("Llama 2's");
        assert_eq!(found.system, Some(("[INST] <<SYS>>\n".to_owned(), "\n<</SYS>>\n\n".to_owned())));
        assert_eq!((&*found.begin, &*found.answer), ("[INST] ", " [/INST] "));
        assert_eq!((&*found.next, &*found.end), (" </s><s>[INST] ", " [/INST]"));
    }

    /// Where the system text is refused there is a template without; where a turn's text depends on another's, or
    /// braces stand in it, there is none.
    #[test]
    fn what_cannot_be_said_is_none() {
        let refuses = CHATML.replace(
            "{% if messages[0].role != 'system' %}",
            "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{% if true %}",
        );
        assert_eq!(pieces(&refuses).expect("without").system, None);
        assert_eq!(pieces(&CHATML.replace("{{ m.role }}", "{{ m.role }}{{ loop.index }}")), None);
        assert_eq!(pieces(&CHATML.replace("Be kind.", "{{ '{{' }}")), None);
        assert_eq!(pieces("{{ messages[0].content | upper }}"), None);
    }
}
