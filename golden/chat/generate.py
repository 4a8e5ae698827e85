"""Renders conversations with chat templates as transformers does, for the tests of `crates/mesp/src/data`.

    python golden/chat/generate.py --shared FOLDER    # FOLDER holds chat_templates/, tokenizers/ and models/

Writes renderings.json: for each template of FOLDER/chat_templates and each of own_templates/ the text of every
conversation, or that the template refuses it; where the template has {% generation %} tags, also the pieces of text
that they mark. Writes masks.json: for each template with tags and each tokenizer, the demonstration's and those of
FOLDER, the tokens of conversations and which of them `return_assistant_tokens_mask` marks.
"""

import argparse
import datetime
import json
import pathlib

import jinja2
import transformers
import transformers.utils.chat_template_utils as chat

HERE = pathlib.Path(__file__).parent
DATE = datetime.datetime(2024, 7, 26, 13, 4, 5)
BOS, EOS = "<s>", "<|endoftext|>"


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return DATE


chat.datetime = Clock

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather <now> & later: \"né\"",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "A city"},
                "days": {"type": "integer", "enum": [1, 2, 3]},
                "limit": {"type": "number", "default": 1.0},
            },
            "required": ["city"],
        },
    },
}
CALL = {"type": "function", "id": "call_01", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "limit": 2.50, "x": [True, None, 1e20, 1e-7]}}}

CONVERSATIONS = {
    "plain": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]},
    "question": {"messages": [{"role": "user", "content": " Hi there \n"}], "add_generation_prompt": True},
    "system": {
        "messages": [
            {"role": "system", "content": "  Be brief.\n"},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello <b>you</b> & \"all\"!"},
        ]
    },
    "turns": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "Hello!"},
            {"role": "assistant", "content": "\n Hello! "},
            {"role": "user", "content": "日本 🙂"},
            {"role": "assistant", "content": "Naïve."},
        ]
    },
    "tools": {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "get_weather", "content": "{\"sun\": true}"},
            {"role": "assistant", "content": "Sunny."},
        ],
        "tools": [TOOL],
    },
    "calls": {
        "messages": [
            {"role": "system", "content": "Use tools."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "I look.", "tool_calls": [CALL, CALL]},
            {"role": "tool", "name": "get_weather", "content": "1"},
            {"role": "tool", "name": "get_weather", "content": "2"},
            {"role": "assistant", "content": "Sunny."},
            {"role": "user", "content": "Thanks"},
            {"role": "assistant", "content": "Bye."},
        ],
        "tools": [TOOL, TOOL],
    },
    "reasoning": {
        "messages": [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "2", "reasoning_content": "One and one.\n"},
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "4", "reasoning_content": "\nTwo and two is 4"},
        ]
    },
    "thinking": {
        "messages": [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "<think>\nOne and one.\n</think>\n\n2"},
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "<think>\nTwo and two is 4.\n</think>\n\n4"},
        ]
    },
    "no_thinking": {
        "messages": [{"role": "user", "content": "1+1?"}],
        "add_generation_prompt": True,
        "chat_template_kwargs": {"enable_thinking": False},
    },
}


# What meets at the beginning and the end of a turn: white space, signs, digits, letters beyond ASCII, nothing.
BOUNDARIES = {
    "words": ["no", "yes", "positive", "A", " 4", "42", "x = 7"],
    "spaces": [" leading", "trailing ", "\n\nlines\n\n", "\t", " ", "a\nb"],
    "signs": ["()", "\"good\"", "->", "...", "'s", ":", "</tag>"],
    "letters": ["né", "日本", "🙂", "e\u0301", "Ünder"],
    "nothing": ["", "then"],
}
ASKED = ["Is it good?", "Why", "1 + 1 =", "…"]


def boundary(answers):
    turns = [(ASKED[i % len(ASKED)], answer) for i, answer in enumerate(answers)]
    return [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn)]


MASKED = {name: {"messages": boundary(answers)} for name, answers in BOUNDARIES.items()}
MASKED |= {name: CONVERSATIONS[name] for name in ("system", "turns", "calls", "thinking")}


def has_tags(template):
    return "{%- generation" in template or "{% generation" in template


def masks(tokenizer, template, row):
    try:
        out = tokenizer.apply_chat_template(
            row["messages"],
            tools=row.get("tools"),
            chat_template=template,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
    except (jinja2.exceptions.TemplateError, TypeError):
        return None
    return {"ids": out["input_ids"], "mask": "".join(map(str, out["assistant_masks"]))}


def render(template, row):
    arguments = dict(row.get("chat_template_kwargs", {}))
    try:
        texts, spans = chat.render_jinja_template(
            conversations=[row["messages"]],
            tools=row.get("tools"),
            chat_template=template,
            add_generation_prompt=row.get("add_generation_prompt", False),
            return_assistant_tokens_mask=has_tags(template),
            bos_token=BOS,
            eos_token=EOS,
            **arguments,
        )
    except (jinja2.exceptions.TemplateError, TypeError) as error:
        return {"refused": str(error)}
    result = {"text": texts[0]}
    if spans and spans[0]:
        result["generated"] = [texts[0][start:end] for start, end in spans[0]]
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=pathlib.Path)
    arguments = parser.parse_args()
    folders = [(HERE / "own_templates", "")]
    tokenizers = {"demo": HERE.parent.parent / "assets/demo/model"}
    if arguments.shared:
        folders.append((arguments.shared / "chat_templates", "shared/"))
        for path in sorted(arguments.shared.glob("*/*/tokenizer_config.json")):
            if (path.parent / "tokenizer.json").exists():
                tokenizers["shared/" + str(path.parent.relative_to(arguments.shared))] = path.parent
    templates = {
        prefix + str(path.relative_to(folder)): path.read_text()
        for folder, prefix in folders
        for path in sorted(folder.rglob("*.jinja"))
    }
    document = {
        "date": int(DATE.replace(tzinfo=datetime.timezone.utc).timestamp()),
        "conversations": CONVERSATIONS,
        "renderings": {
            name: {key: render(template, row) for key, row in CONVERSATIONS.items()}
            for name, template in templates.items()
        },
    }
    (HERE / "renderings.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    found = {}
    for name, folder in tokenizers.items():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        for template, text in templates.items():
            if has_tags(text):
                rows = {key: masks(tokenizer, text, row) for key, row in MASKED.items()}
                found.setdefault(name, {})[template] = {key: row for key, row in rows.items() if row}
    # A line for each row.
    text = json.dumps({"conversations": MASKED, "masks": found}, ensure_ascii=False, separators=(",", ":"))
    (HERE / "masks.json").write_text(text.replace('},"', '},\n"') + "\n")


main()
