"""Renders snippets of Jinja as transformers does, for the tests of `crates/mesp/src/data/jinja`.

    python golden/chat/jinja.py

Writes jinja.json: for each snippet its text, or null where it is refused. The snippets stand in jinja_snippets.txt, one a line,
and are made larger by the combinations below: every operator, test and filter with values of every type.
"""

import datetime
import itertools
import json
import pathlib

import transformers.utils.chat_template_utils as chat

HERE = pathlib.Path(__file__).parent
DATE = datetime.datetime(2024, 7, 26, 13, 4, 5)


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return DATE


chat.datetime = Clock

VARIABLES = {
    "messages": [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "Hi <b>there</b>"},
        {"role": "assistant", "content": "Hello!", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "b": [True, None, 1.5]}}}]},
    ],
    "m": {
        "content": "hi", "flag": True, "nul": None, "obj": {"a": True, "b": None, "é": "x"},
        "lst": [1, "a", None, 1.5], "f": 3.0, "items": [1], "n": -7, "big": 10**18,
    },
    "rows": [{"n": "b", "v": 2, "d": {"k": 1}}, {"n": "A", "v": 1, "d": {"k": 2}}, {"n": "b", "v": 3, "d": {"k": 0}}, {"n": "c", "v": 1, "d": {"k": 9}}],
    "words": ["pear", "Apple", "fig", "apple"],
    "tools": None,
}

VALUES = ["none", "true", "0", "-3", "2", "1.5", "-0.5", "''", "'ab'", "'3'", "[]", "[3, 1]", "('x', 2)", "{}", "{'a': 1}", "nope", "range(3)", "m.obj.items()", "(words|select)"]
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]
TESTS = ["odd", "even", "defined", "undefined", "none", "boolean", "false", "true", "integer", "float", "lower", "upper", "string", "mapping", "number", "sequence", "iterable", "callable", "escaped", "divisibleby 2", "in [1, 'ab', none]", "eq 2", "ne 2", "gt 1", "lt 'b'", "ge 2", "le 2", "filter", "test"]
FILTERS = ["abs", "batch(2)|list", "capitalize", "center(9)", "count", "d('x')", "default('x', true)", "dictsort", "e", "filesizeformat", "first", "float", "float(2)", "format('x')", "indent", "int", "int(5)", "items|list", "join", "join('-')", "last", "length", "list", "lower", "map('string')|list", "max", "min", "reject|list", "replace('a', 'b')", "reverse|list", "round", "round(1)", "round(1, 'ceil')", "round(0, 'floor')", "safe", "select|list", "slice(2)|list", "sort", "sort(reverse=true)", "string", "sum", "title", "tojson", "tojson(indent=2)", "trim", "truncate(1)", "unique|list", "upper", "urlencode", "wordcount", "attr('upper')"]
FORMATS = ["%s", "%d", "%5d|", "%-5d|", "%05d", "%+d", "% d", "%x", "%#x", "%X", "%o", "%f", "%.2f", "%08.3f", "%e", "%.3e", "%g", "%G", "%.2g", "%r", "%10s|", "%-10s|", "%.1s", "%c", "%5.1f|", "%i", "%%", "%a", "%q"]
BRACES = ["{}", "{:>6}|", "{:<6}|", "{:^6}|", "{:*^7}", "{:06}", "{:+}", "{:d}", "{:,}", "{:.2f}", "{:e}", "{:g}", "{:%}", "{:x}", "{:#x}", "{:b}", "{!r}", "{:s}", "{:.3}", "{:08.2f}", "{:=+8}", "{:010,}"]
NUMBERS = ["0", "-7", "255", "1234567", "3.14159", "-0.00001234", "1e20", "2.5", "1e16", "0.1", "100.0", "true", "'t\\'x'", "none", "[1]", "nope", "65"]
METHODS = ["capitalize()", "casefold()", "center(7)", "center(8, '*')", "count('a')", "count('')", "endswith('c')", "expandtabs(4)", "find('b')", "find('a', 1)", "index('a')", "isalnum()", "isalpha()", "isascii()", "isdecimal()", "isdigit()", "islower()", "isnumeric()", "isprintable()", "isspace()", "istitle()", "isupper()", "ljust(6, '.')", "rjust(6)", "lower()", "lstrip()", "lstrip('a')", "partition('b')", "rpartition('b')", "removeprefix('a')", "removesuffix('c')", "replace('a', 'xx')", "replace('', '-')", "replace('a', 'b', 1)", "rfind('a')", "rindex('a')", "split()", "split('a')", "split(' ', 1)", "split(maxsplit=1)", "rsplit('a', 1)", "rsplit(none, 1)", "splitlines()", "splitlines(true)", "startswith('a')", "startswith(('x', 'a'))", "startswith('b', 1)", "strip()", "strip('ac')", "swapcase()", "title()", "upper()", "zfill(6)", "encode()|length", "join(['x', 'y'])", "format(1)", "foo()", "foo", "__class__", "[0]", "isidentifier()"]
TEXTS = ["''", "'abc'", "' a b  c '", "'aXbXa'", "'ABC'", "'12'", "'-12'", "'é Ünï ß'", "'日本 語a'", "\"it's a-b\"", "'a\\nb\\r\\nc\\n'", "'\\t'", "'½'", "'Ab Cd'", "'ﬁn ǆ'"]
SLICES = ["[1:]", "[:2]", "[-1]", "[::-1]", "[::2]", "[5:1:-1]", "[-2:]", "[:-1]", "[10]", "[1:100]", "[-100:2]", "['x']", "[none]", "[1.0]", "[true]", "[:none]", "['a':]"]


def snippets():
    for line in (HERE / "jinja_snippets.txt").read_text().split("\n"):
        if line and not line.startswith("##"):
            yield line.replace("⏎", "\n")
    for left, operator, right in itertools.product(VALUES, OPERATORS, VALUES[::2] + ["2", "'ab'"]):
        yield f"{{{{ {left} {operator} {right} }}}}"
    for value, test in itertools.product(VALUES, TESTS):
        yield f"{{{{ {value} is {test} }}}} {{{{ ({value}) is not {test} }}}}"
    for value, name in itertools.product(VALUES + TEXTS, FILTERS):
        yield f"{{{{ ({value})|{name} }}}}"
    for form, value in itertools.product(FORMATS, NUMBERS):
        yield f"{{{{ '{form}' % {value} }}}} {{{{ '{form}' % ({value},) }}}}"
    for form, value in itertools.product(BRACES, NUMBERS):
        yield f"{{{{ '{form}'.format({value}) }}}}"
    for text, method in itertools.product(TEXTS, METHODS):
        yield f"{{{{ {text}{'' if method[0] == '[' else '.'}{method} }}}}"
    for value, part in itertools.product(["'abcdé'", "[1, 2, 3]", "(1, 2, 3)", "range(5)", "m.obj", "none", "nope", "5"], SLICES):
        yield f"{{{{ {value}{part} }}}}"
    for value in VALUES + TEXTS:
        yield f"{{{{ {value} }}}} {{{{ [{value}] }}}} {{{{ 'y' if {value} else 'n' }}}} {{{{ not ({value}) }}}}"
        yield f"{{% for x in {value} %}}{{{{ loop.index }}}}{{{{ x }}}}{{{{ loop.last }}}},{{% else %}}none{{% endfor %}}"
        yield f"{{{{ -({value}) }}}}{{{{ +({value}) }}}}"


def render(source):
    try:
        return chat._compile_jinja_template(source).render(**VARIABLES, documents=None)
    except Exception:
        return None


def main():
    seen = dict.fromkeys(snippets())
    cases = [[source, render(source)] for source in seen]
    # What holds an address in memory is different in each run.
    cases = [[source, None if text and " at 0x" in text.lower() else text] for source, text in cases]
    document = {"date": int(DATE.replace(tzinfo=datetime.timezone.utc).timestamp()), "variables": VARIABLES, "cases": cases}
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    head = json.dumps({k: v for k, v in document.items() if k != "cases"}, ensure_ascii=False)[:-1]
    (HERE / "jinja.json").write_text(f'{head}, "cases": [\n{lines}\n]}}\n')
    print(len(cases), "snippets,", sum(t is None for _, t in cases), "refused")


main()
