"""smalltown: an embedded world of conversations whose every target can be verified.

A *meaning* (scenario, outcome, slots) is rendered into an English conversation and into a summary
and a reply, each in four languages and five tones; `read` turns such a text back into its meaning.

- `world`    the data files (who lives there, what is said) as plain data
- `meaning`  meanings, their sampling, and the splits
- `render`   meaning to text
- `read`     text to meaning, and the verdict on an output
- `corpus`   Examples of any task and split
- `pretrain` general town text and generic instructions, for the tiny base
- `verified` the metrics that read a text back; `pretraining`, `tokenizer` how the base is made

Importing this package makes "smalltown" a corpus, importing `verified` makes its metrics known.
"""

from onepass.core.errors import OnepassError
from onepass.tasks.corpora.reader import Corpus
from onepass.tasks.corpus import CORPORA


def _smalltown(name: str, rest: str) -> Corpus:
    from onepass.smalltown.corpus import Smalltown

    if rest:
        raise OnepassError(f"corpus {name!r}: smalltown is embedded; it takes no path")
    return Smalltown()


CORPORA.add("smalltown", _smalltown)
