"""Running a composition that a server holds, each of its passes under a model name of its own.

vLLM serves every LoRA it is given under a name (`onepass export --format vllm`); a server with one
model is given the whole of a pass, fused into an adapter or into the weights.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from onepass.adapters.composition import Composition
from onepass.core.errors import OnepassError
from onepass.model.chat import PINNED
from onepass.model.generate import Generated, Progress
from onepass.serve.endpoint import Endpoint, ask
from onepass.tasks.prompt import build_prompt


def run_served(
    composition: Composition,
    endpoint: Endpoint,
    served: Sequence[str],
    texts: Sequence[str],
    max_new_tokens: int | None = None,
    progress: Progress | None = None,
) -> Generated:
    """Do the composition's task to each text, as `onepass.model.generate.run` does it here.

    served: the name of each pass; that of `endpoint` is not used. The server puts the prompt into
    the model's chat format. It is not asked to shorten a text: one that it refuses is "" among the
    texts, with its reason among the notices, and counts as failed. The notices also name answers
    that were cut off.
    """
    if len(served) != len(composition.passes):
        raise OnepassError(
            f"the composition for {composition.task} has {len(composition.passes)} passes, but "
            f"{len(served)} served models are named; name one for each pass, in their order"
        )
    began = time.perf_counter()
    current: dict[int, str] = dict(enumerate(texts))
    notices: list[list[str]] = [[] for _ in texts]
    tokens = 0
    for pass_, name in zip(composition.passes, served, strict=True):
        places = list(current)
        longest = pass_.task.longest(max_new_tokens)
        responses = ask(
            replace(endpoint, model=name),
            [build_prompt(pass_.task, current[place], pass_.shots) for place in places],
            max_new_tokens=longest,
            system=pass_.task.system,
            on_response=lambda place, response: progress(1) if progress else None,
            extra={"chat_template_kwargs": PINNED},
        )
        current = {}
        for place, response in zip(places, responses, strict=True):
            tokens += response.completion_tokens
            if response.text is None:
                notices[place].append(f"no answer from {name}: {response.error}")
                continue
            current[place] = response.text
            if response.cut:
                notices[place].append(f"{name} was cut off at {longest} tokens; allow more")
    return Generated(
        [current.get(place, "") for place in range(len(texts))],
        tokens,
        time.perf_counter() - began,
        ["; ".join(some) for some in notices],
        failed=len(texts) - len(current),
    )
