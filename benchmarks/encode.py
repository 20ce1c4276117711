"""Prompts encoded per second, ours against transformers.

    python benchmarks/encode.py [BASE ...]       the embedded base, and folders or GGUF files
    python benchmarks/encode.py --quick          fewer prompts, some seconds
    python benchmarks/encode.py --json FILE      also write the figures

For each base, of conversations as long as DialogSum's: ours (`prompt_ids`), all at once and one by
one, and when each spells control tokens of the base; transformers' `apply_chat_template` without
and with `sanitize_control_tokens`, which alone takes such texts for data; and plain encoding. A
base without a chat template is measured as it is and with that of Gemma. Seconds are the
processor's; one thread.
"""

import argparse
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import write_figures

GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m.role + '\n' + m.content | trim "
    "+ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
WORDS = [
    "the", "at", "on", "shall", "we", "meet", "noon", "harbour", "ticket", "yes", "please",
    "tomorrow", "because", "nothing", "really", "apartment", "Ana", "Ben", "5:30", "€12", "naïve",
    "café", "mañana", "Straße",
]  # fmt: skip


def conversations(count: int) -> list[str]:
    """Of 4 to 16 turns of 4 to 24 words."""
    rng = random.Random(0)
    return [
        "\n".join(
            f"#Person{turn % 2 + 1}#: " + " ".join(rng.choices(WORDS, k=rng.randint(4, 24)))
            for turn in range(rng.randint(4, 16))
        )
        for _ in range(count)
    ]


def spelling(tokenizer: Any, texts: list[str]) -> list[str]:
    """The texts, each with some control tokens in it."""
    special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    rng = random.Random(1)
    return [text.replace(":", ":" + rng.choice(special) + " ", 3) for text in texts]


def rate(encode: Callable[[], Any], count: int, repeats: int) -> float:
    """Prompts per second of the processor, the best of some repeats."""
    encode()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        encode()
        times.append(time.process_time() - began)
    return count / min(times)


def measure(tokenizer: Any, count: int, slow: int, repeats: int) -> dict[str, float]:
    """slow: how many prompts those are timed on that take long."""
    from onepass.model.chat import prompt_ids, text_ids

    texts = conversations(count)
    hostile = spelling(tokenizer, texts)

    def theirs(some: list[str], **options: Any) -> Any:
        chats = [[{"role": "user", "content": text}] for text in some]
        return tokenizer.apply_chat_template(chats, add_generation_prompt=True, **options)

    found = {
        "ours": rate(lambda: prompt_ids(tokenizer, texts), count, repeats),
        "one by one": rate(lambda: [prompt_ids(tokenizer, [t]) for t in texts], count, repeats),
        "control tokens": rate(lambda: prompt_ids(tokenizer, hostile), count, repeats),
        "answers": rate(lambda: text_ids(tokenizer, hostile), count, repeats),
        "plain": rate(lambda: tokenizer(texts), count, repeats),
    }
    if tokenizer.chat_template:
        found["theirs"] = rate(lambda: theirs(texts), count, repeats)
        found["theirs, sanitised"] = rate(
            lambda: theirs(hostile[:slow], sanitize_control_tokens=True), slow, repeats
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bases", nargs="*", help="folders or GGUF files, beside the embedded base")
    parser.add_argument("--quick", action="store_true", help="fewer prompts")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    from onepass.model.load import load_tokenizer

    sizes = (50, 5, 1) if options.quick else (1000, 50, 5)
    rows = []
    for base in ["tiny", *options.bases]:
        tokenizer = load_tokenizer(base)
        tokens = (len(tokenizer), len(tokenizer.added_tokens_decoder))
        templates = {"its own": tokenizer.chat_template}
        if not tokenizer.chat_template:
            templates = {"none": None, "Gemma's": GEMMA}
        for title, template in templates.items():
            tokenizer.chat_template = template
            per_second = measure(tokenizer, *sizes)
            name = Path(base).name
            rows.append({"base": name, "template": title, "tokens": tokens, **per_second})
            print(f"{name}, {tokens[0]:,} tokens, {tokens[1]:,} of them added; template: {title}")
            print("   prompts/s: ", ", ".join(f"{n} {v:,.0f}" for n, v in per_second.items()))
    if options.json:
        setting = {"quick": options.quick, "prompts": sizes[0]}
        write_figures(options.json, setting, ("tokenizers", "transformers"), rows=rows)


if __name__ == "__main__":
    main()
