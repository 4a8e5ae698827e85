"""Renders conversations with chat templates as transformers does, for the tests of `crates/mesp/src/data`.

    python golden/chat/generate.py --templates FOLDER    # FOLDER holds NAME/TEMPLATE.jinja, or NAME.jinja

Writes renderings.json: for each template of FOLDER and each of own_templates/ the text of every conversation, or that
the template refuses it; where the template has {% generation %} tags, also the pieces of text that they mark.
"""

import argparse
import datetime
import json
import pathlib

import jinja2
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


def render(template, row):
    arguments = dict(row.get("chat_template_kwargs", {}))
    try:
        texts, spans = chat.render_jinja_template(
            conversations=[row["messages"]],
            tools=row.get("tools"),
            chat_template=template,
            add_generation_prompt=row.get("add_generation_prompt", False),
            return_assistant_tokens_mask="{%- generation" in template or "{% generation" in template,
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
    parser.add_argument("--templates", type=pathlib.Path)
    arguments = parser.parse_args()
    own = HERE / "own_templates"
    folders = [(own, "")] + ([(arguments.templates, "shared/")] if arguments.templates else [])
    renderings = {}
    for folder, prefix in folders:
        for path in sorted(folder.rglob("*.jinja")):
            template = path.read_text()
            name = prefix + str(path.relative_to(folder))
            renderings[name] = {key: render(template, row) for key, row in CONVERSATIONS.items()}
    document = {
        "date": int(DATE.replace(tzinfo=datetime.timezone.utc).timestamp()),
        "conversations": CONVERSATIONS,
        "renderings": renderings,
    }
    (HERE / "renderings.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


main()
