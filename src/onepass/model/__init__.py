"""A base language model: loading it, attaching a composition, training, generating."""
