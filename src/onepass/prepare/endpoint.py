"""Translations and tones by a model behind an OpenAI-compatible server."""

from collections.abc import Sequence

from onepass.core.errors import OnepassError
from onepass.prepare.labeller import FAILED, TOO_LONG, Identity, Keep, Label, Options, labeller
from onepass.prepare.prompts import clean, fill, prompt_template
from onepass.serve.endpoint import Response, Spent, ask
from onepass.tasks.task import Task

LONGEST_SOURCE = 20_000
"""Characters; a longer text is not sent, since no summary or reply is so long."""


@labeller("endpoint")
class EndpointLabeller:
    def __init__(self, options: Options) -> None:
        if options.endpoint is None:
            raise OnepassError(
                "endpoint needs an address: give --endpoint URL --endpoint-model NAME"
            )
        self.endpoint = options.endpoint
        self.max_new_tokens = options.max_new_tokens
        self.spent = Spent()  # over all parts, against the endpoint's limits

    def identity(self, part: Task) -> Identity:
        settings = {"url": self.endpoint.url, "max_new_tokens": self.max_new_tokens}
        return Identity("endpoint", self.endpoint.model, prompt_template(part), settings)

    def label(self, part: Task, texts: Sequence[str], keep: Keep) -> None:
        template = prompt_template(part)
        keep({text: Label(problem=TOO_LONG) for text in texts if len(text) > LONGEST_SOURCE})
        asked = [text for text in texts if len(text) <= LONGEST_SOURCE]

        def on_response(place: int, response: Response) -> None:
            text = asked[place]
            if response.cut:
                keep({text: Label(problem=TOO_LONG)})
            elif response.text is None:
                keep({text: Label(problem=FAILED, detail=response.error)})
            else:
                keep({text: Label(clean(response.text, text))})

        prompts = [fill(template, text) for text in asked]
        ask(
            self.endpoint,
            prompts,
            max_new_tokens=self.max_new_tokens,
            on_response=on_response,
            spent=self.spent,
        )
