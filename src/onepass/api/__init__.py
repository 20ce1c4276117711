"""The workflows as functions: what the commands and `import onepass` call."""
