"""The report as one HTML page that needs no network; the templates are beside this file."""
