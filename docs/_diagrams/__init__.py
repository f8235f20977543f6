"""Pictures of the documentation, drawn from the tables of the code when the pages are built."""
