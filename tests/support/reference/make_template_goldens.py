#!/usr/bin/env python3
"""Writes tests/data/template/{expressions,templates}.json with the real jinja2, set up as
transformers sets it up for chat templates. Needs: pip install jinja2 transformers.

    python3 tests/support/reference/make_template_goldens.py
"""
import json
import os
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template

from template_cases import CONVERSATIONS, ERRORS, EXPRESSIONS, TEMPLATES

OUT = os.path.join(os.path.dirname(__file__), "../../data/template")


def render(source, messages, add_generation_prompt=True):
    template = _compile_jinja_template(source)
    return template.render(
        messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt,
        bos_token="<s>", eos_token="</s>")


def attempt(source, messages, add_generation_prompt=True):
    try:
        return {"text": render(source, messages, add_generation_prompt)}
    except Exception as error:  # whatever jinja2 or the sandbox raises
        return {"error": str(error)}


def write(name, rows):
    with open(os.path.join(OUT, name), "w", encoding="utf-8") as f:
        json.dump(rows, f, ensure_ascii=False, indent=1)
        f.write("\n")
    print(name, len(rows))


def main():
    messages = CONVERSATIONS["system"]
    rows = []
    for source in EXPRESSIONS:
        result = attempt(source, messages)
        if "error" in result:
            sys.exit(f"{source!r} fails: {result['error']}")
        rows.append({"template": source, **result})
    for source in ERRORS:
        result = attempt(source, messages)
        if "text" in result:
            sys.exit(f"{source!r} should fail")
        rows.append({"template": source, "error": "any"})
    write("expressions.json", rows)

    rows = []
    for name, source in TEMPLATES.items():
        cases = []
        for conversation, turns in CONVERSATIONS.items():
            for prompt in (True, False):
                cases.append({"conversation": conversation, "add_generation_prompt": prompt,
                              **attempt(source, turns, prompt)})
        rows.append({"name": name, "template": source, "cases": cases})
    write("templates.json", {"conversations": CONVERSATIONS, "templates": rows})


main()
