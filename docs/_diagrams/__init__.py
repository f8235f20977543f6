"""The diagrams of the documentation, drawn from the tables in the code when the pages are built."""
