"""What every layer may use: errors a user can act on, safe files, named registers."""
