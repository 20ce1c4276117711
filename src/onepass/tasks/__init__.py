"""Tasks, their prompts, and where examples come from. Nothing here knows of tensors."""
