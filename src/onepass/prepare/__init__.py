"""Preparing compositional sets: targets of the main task, translated or put into another tone.

    sources -> labeller, one part of the task at a time -> filters -> JSON lines and a card

- `sources`    the main task's examples, split by split, no input twice
- `labeller`   what a labeller is, and the register of them; one file for each
- `store`      labels on disk, found again by the content they were made from
- `filters`    which labels are left out, and why
- `prepare`    all of it together
- `card`       the dataset card
"""
