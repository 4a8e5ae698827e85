use serde_json::{Map, Value as Json, json};

use super::*;

#[derive(serde::Deserialize)]
struct Golden {
    date: i64,
    variables: Map<String, Json>,
    cases: Vec<(String, Option<String>)>,
}

fn render(source: &str, variables: &Map<String, Json>, date: i64) -> Res<String> {
    let messages = variables.get("messages").and_then(Json::as_array).cloned().unwrap_or_default();
    Program::new(source)?.render(&Context {
        variables: vec![("documents", None)],
        more: variables,
        messages: &messages,
        date: Some(Date::from_unix(date)),
        marks: None,
    })
}

fn alone(source: &str) -> Res<String> {
    render(source, &Map::new(), 0)
}

/// Expected texts: jinja2 in the environment of transformers, by `golden/chat/jinja.py`. What is not supported is
/// refused by name; nothing else differs, and nothing is rendered that Python refuses.
#[test]
fn snippets_render_as_in_python() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/chat/jinja.json");
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (mut wrong, mut refused) = (Vec::new(), 0);
    for (source, expected) in &golden.cases {
        match (render(source, &golden.variables, golden.date), expected) {
            (Ok(text), Some(expected)) if text == *expected => {}
            (Err(_), None) => {}
            (Err(fault), Some(_))
                if fault.text.contains("not supported") || fault.text.contains("address in memory") =>
            {
                refused += 1;
            }
            (found, expected) => {
                wrong.push(format!("{source}\n  expected {expected:?}\n  found    {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), golden.cases.len(), wrong.join("\n"));
    assert!(golden.cases.len() > 5000 && refused * 50 < golden.cases.len(), "{refused} are refused");
}

/// Runs on as small a stack as a thread has that nobody gave a size.
fn on_a_small_stack(source: &str) -> Result<String, String> {
    let source = source.to_owned();
    let run = move || alone(&source).map_err(|fault| fault.text);
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap()
}

fn stopped(source: &str, reasons: &[&str]) {
    let begin = std::time::Instant::now();
    let shown: String = source.chars().take(100).collect();
    let error = on_a_small_stack(source).expect_err(&shown);
    assert!(reasons.iter().any(|reason| error.contains(reason)), "{shown}: {error}");
    assert!(begin.elapsed().as_secs() < 20, "{shown}");
}

#[test]
fn what_is_nested_too_deep_is_refused() {
    let many = |before: &str, each: &str, after: &str| format!("{before}{}{after}", each.repeat(20_000));
    // Jinja2 lets no test follow another.
    let deep = [
        "levels deep",
        "a chain of more than",
        "cannot follow each other",
        "too many `if`",
        "ends inside a tag",
    ];
    for source in [
        many("{{ 1", "+1", " }}"),
        many("{{ 1", "~1", " }}"),
        many("{{ 1", "|string", " }}"),
        many("{{ a", ".a", " }}"),
        many("{{ a", "[0]", " }}"),
        many("{{ f", "()", " }}"),
        many("{{ 1", " is odd", " }}"),
        many("{{ 1", " < 1", " }}"),
        many("{{ 1", " or 1", " }}"),
        many("{{ 1", " and 1", " }}"),
        many("{{ 2", "**1", " }}"),
        many("{{ 1", "*1", " }}"),
        many("{{ ", "-", "1 }}"),
        many("{{ ", "+", "1 }}"),
        many("{{ ", "not ", "1 }}"),
        many("{{ 1", " if 1 else 1", " }}"),
        many("{{ 1", " if 1", " }}"),
        many("{{ ", "(", ""),
        many("{{ ", "[", ""),
        many("{{ ", "{1:", ""),
        many("{{ ", "f(", ""),
        many("{{ a", "[a", ""),
        many("{{ 1|d", "(1|d", ""),
        many("{{ 1 is in ", "[1 is in ", ""),
        many("{% if 0 %}", "{% elif 0 %}", "{% endif %}"),
        many("", "{% if 1 %}", ""),
        many("", "{% for x in y %}", ""),
        many("", "{% set x %}", ""),
        many("", "{% macro f() %}", ""),
        many("", "{% call f() %}", ""),
        many("{% set ", "(", ""),
        many("{% filter upper", "|upper", "%}{% endfilter %}"),
    ] {
        stopped(&source, &deep);
    }
    for source in [
        "{% set ns = namespace(a=[]) %}{% for i in range(25000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}",
        "{% set ns = namespace(a={}) %}{% for i in range(25000) %}{% set ns.a = {'a': ns.a} %}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}",
        "{% set ns = namespace(a=1) %}{% for i in range(9999) %}{% set ns.a = cycler(ns.a) %}{% endfor %}",
        "{% set ns = namespace(a=1) %}{% for i in range(9999) %}{% set ns.a = joiner(ns.a) %}{% endfor %}",
        "{% set ns = namespace(a=1) %}{% for i in range(9999) %}{% set ns.a = [ns.a]|batch(1) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(x) %}{% call f(x) %}{{ f(caller) }}{% endcall %}{{ caller() }}{% endmacro %}{{ f(1) }}",
        "{% set ns = namespace() %}{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    ] {
        stopped(source, &["levels deep"]);
    }
    stopped("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns|tojson }}", &["not JSON serializable"]);
}

/// What holds itself is given back, and so is what stands in a long row of closures.
#[test]
fn closures_end_without_recursion() {
    for source in [
        "{% set ns = namespace(m=0) %}{% for i in range(20000) %}{% set p = ns.m %}{% macro m() %}{% endmacro %}{% set ns.m = m %}{% endfor %}",
        "{% set ns = namespace(m=0) %}{% macro k() %}{% set ns.m = caller %}{% endmacro %}{% for i in range(20000) %}{% set p = ns.m %}{% call k() %}{{ p }}{% endcall %}{% endfor %}",
        "{% set ns = namespace(m=0) %}{% for i in range(20000) %}{% set ns.m = namespace(a=ns.m) %}{% endfor %}",
        "{% set ns = namespace(m=0) %}{% for i in range(20000) %}{% for j in [1] %}{{ loop.changed(ns.m, loop)|string|first }}{% set ns.m = loop %}{% endfor %}{% endfor %}",
    ] {
        let _ = on_a_small_stack(source);
    }
}

#[test]
fn memory_and_work_have_limits() {
    let limits = ["MB of memory", "is stopped", "not supported", "too large", "Range too big"];
    for source in [
        "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=(1,)) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s|replace('x', 'xxxx') %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s.replace('x', 'xxxx') %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s.join([ns.s, ns.s, ns.s]) %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
        "{% set ns = namespace(s='<') %}{% for i in range(40) %}{% set ns.s = ns.s|forceescape %}{% set ns.s = ns.s|string * 4 %}{% endfor %}",
        "{% set ns = namespace(s='\\\\') %}{% for i in range(40) %}{% set ns.s = ns.s|tojson %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(90) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(90) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|tojson|length }}",
        "{% set ns = namespace(s=[1], t=[1]) %}{% for i in range(90) %}{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.s == ns.t }}",
        "{% set ns = namespace(s=(1,)) %}{% for i in range(90) %}{% set ns.s = (ns.s, ns.s) %}{% endfor %}{{ {ns.s: 1}|length }}",
        "{{ '%999999999d'|format(1) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%.999999999f' % 1 }}",
        "{{ '%.999999999d' % 1 }}",
        "{{ '%*d' % (10 ** 12, 1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '{:>{w}}'.format('a', w=10 ** 9) }}",
        "{{ '{:.999999999f}'.format(1.5) }}",
        "{{ 'x'.center(10 ** 9) }}",
        "{{ 'x'|center(10 ** 9) }}",
        "{{ 'x'.ljust(10 ** 30) }}",
        "{{ 'x'.zfill(10 ** 9) }}",
        "{{ '\\t'.expandtabs(10 ** 9) }}",
        "{{ 'a\\nb'|indent(10 ** 9) }}",
        "{{ [[1]]|tojson(indent=10 ** 9) }}",
        "{{ [1]|batch(10 ** 9, 'x')|list }}",
        "{{ [1]|slice(10 ** 9)|list }}",
        "{{ range(10 ** 9)|list }}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ [1] * 10 ** 9 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "{% for a in range(90000) %}{% for b in range(90000) %}xxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
        "{% set s = 'x' * 10 ** 6 %}{% for a in range(90000) %}{% for b in range(90000) %}{% if s.upper() %}{% endif %}{% endfor %}{% endfor %}",
        "{% set s = 'xy' * 10 ** 6 %}{% for a in range(90000) %}{{ s.split('x')|length }}{% endfor %}",
        "{% set s = range(99999)|list %}{% for a in range(90000) %}{{ (s|sort)[0] }}{% endfor %}",
        "{% set s = range(99999)|list %}{% for a in range(90000) %}{{ -1 in s }}{% endfor %}",
        "{% set s = 'a' * 10 ** 6 %}{% for a in range(90000) %}{{ ('a' * 1000 ~ 'b') in s }}{% endfor %}",
        "{% macro f(n) %}{{ f(n - 1) if n > 0 }}{{ f(n - 1) if n > 0 }}{% endmacro %}{{ f(40) }}",
        // Each step costs little, and there are many in one.
        "{% set s = 'x' * 4 * 10 ** 6 %}{% for a in range(90000) %}{% if s|replace('x', 'y') %}{% endif %}{% endfor %}",
        "{% set s = '<' * 10 ** 6 %}{% for a in range(90000) %}{% if s|forceescape %}{% endif %}{% endfor %}",
        "{% set s = 'x ' * 10 ** 6 %}{% for a in range(90000) %}{% if s|wordcount %}{% endif %}{% endfor %}",
        "{% set s = 'x ' * 10 ** 6 %}{% for a in range(90000) %}{% if s|length %}{% endif %}{% endfor %}",
        "{% set s = 'x ' * 10 ** 6 %}{% for a in range(90000) %}{% if s|int %}{% endif %}{% endfor %}",
        "{% set s = 'x' * 10 ** 6 %}{% for a in range(90000) %}{% if s.join(['a', 'b']) %}{% endif %}{% endfor %}",
    ] {
        stopped(source, &limits);
    }
    // What a conversation holds may be long.
    let long = json!({"messages": [{"role": "user", "content": "x".repeat(30 << 20)}]});
    let text = render("{{ messages[0].content|trim }}", long.as_object().unwrap(), 0).unwrap();
    assert_eq!(text.len(), 30 << 20);
}

/// Tags that are no tags.
#[test]
fn broken_tags_are_refused() {
    for source in [
        "{%}",
        "{%-}",
        "{{}",
        "{%",
        "{{",
        "{#",
        "{#}",
        "{%--%}",
        "{%-%}",
        "{{-}}",
        "{% generation %}",
        "{%raw%}",
    ] {
        assert!(alone(source).is_err(), "{source}");
    }
    assert_eq!(alone("{").unwrap() + &alone("}}").unwrap() + &alone("%}").unwrap(), "{}}%}");
}

/// Pieces of the golden snippets in places where they do not belong: whatever comes out, nothing panics.
#[test]
fn mixed_snippets_do_not_panic() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/chat/jinja.json");
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let written = &golden.cases[..300];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit.max(1)
    };
    for _ in 0..4000 {
        let mut text: Vec<char> = written[below(written.len())].0.chars().collect();
        for _ in 0..=below(4) {
            let other: Vec<char> = written[below(written.len())].0.chars().collect();
            let (from, to, at) = (below(other.len()), below(40), below(text.len()));
            let cut = below(12).min(text.len() - at);
            text.splice(at..at + cut, other.into_iter().skip(from).take(to));
        }
        let _ = render(&text.into_iter().collect::<String>(), &golden.variables, golden.date);
    }
    // The ends of what an integer holds.
    let least = "(-(2 ** 126) * 2)";
    for source in [
        "{{ (N)|round(N) }}",
        "{{ range(N) }}",
        "{{ 'a'.center(N) }}",
        "{{ [1]|batch(N, 1)|list }}",
        "{{ 'a'[N:N:N] }}",
        "{{ [1][N] }}",
        "{{ N // -1 }}",
        "{{ N % -1 }}",
        "{{ -N }}",
        "{{ N|abs }}",
        "{{ N - 1 }}",
        "{{ N * N }}",
        "{{ '%*d' % (N, N) }}",
        "{{ '{:d}'.format(N) }}",
        "{{ 'abc'|truncate(N, leeway=N) }}",
        "{{ [1]|slice(N)|list }}",
        "{{ 'abc'.find('b', N, N) }}",
        "{{ [1].index(1, N) }}",
        "{{ 1.5|round(N) }}",
        "{{ N ** N }}",
        "{{ 'a'.split('a', N) }}",
        "{{ 'a' * N }}",
        "{{ 'a\\nb'|indent(N) }}",
        "{{ [1]|tojson(indent=N) }}",
        "{{ 'a'.expandtabs(N) }}",
        "{{ '1'|int(0, N) }}",
    ] {
        let _ = alone(&source.replace('N', least));
    }
}
