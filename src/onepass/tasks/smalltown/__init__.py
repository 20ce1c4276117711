"""smalltown: an embedded world of conversations whose every target can be verified.

A *meaning* (scenario, outcome, slots) is rendered into an English conversation and into a summary
and a reply, each in four languages and five tones; `read` turns such a text back into its meaning.

- `world`    the data files (who lives there, what is said) as plain data
- `meaning`  meanings, their sampling, and the splits
- `render`   meaning to text
- `read`     text to meaning, and the verdict on an output
- `corpus`   Examples of any task and split
- `pretrain` general town text and generic instructions, for the tiny base
"""
